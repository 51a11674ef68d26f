#pragma once

#include <mpi.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/handle.h"

namespace yard {

/// Throws Error with MPI's own words unless `code` is success.
void check_mpi(int code, std::string_view op, const std::string& communicator);

struct MpiTypeTraits {
  using Type = MPI_Datatype;
  static Type null() { return MPI_DATATYPE_NULL; }
  static void destroy(Type type) noexcept;
};
using MpiType = Handle<MpiTypeTraits>;

/// A committed type of `bytes` contiguous bytes: one row. Every moving call counts in these, so that its limit is 2^31 rows.
MpiType make_row_type(Index bytes);
/// `rows` rows, where the next `rows` are `extent` bytes further on.
MpiType make_spread_type(MPI_Datatype row, Index rows, Index extent);

/// Requests of MPI, and what it reads and writes until they have ended.
struct MpiRequests {
  std::vector<MPI_Request> requests;
  std::vector<Tensor> tensors;
  std::vector<MpiType> types;
};

class MpiTransfer;

/// What all communicators of a runtime share.
class MpiState {
 public:
  ~MpiState();
  std::map<Index, MpiType> row_types;   // by bytes
  std::vector<MpiTransfer*> under_way;  // what `progress` drives
  std::vector<MpiRequests> given_up;    // by works that were dropped while an exception unwound

  MPI_Datatype row_type(Index bytes);
  /// Drives what was given up, for at most `seconds` in all; whether all of it has ended.
  bool drain(double seconds);

 private:
  bool hangs_ = false;
};

/// A collective that MPI carries out.
class MpiTransfer final : public Transfer {
 public:
  MpiTransfer(std::shared_ptr<MpiState> state, std::string_view op, const std::string& communicator);
  ~MpiTransfer() override;
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;

  /// A place for the request of the next call.
  MPI_Request* next() { return &pending_.requests.emplace_back(MPI_REQUEST_NULL); }
  void reserve(std::size_t requests) { pending_.requests.reserve(requests); }
  void keep(const Tensor& tensor) { pending_.tensors.push_back(tensor); }
  void keep(MpiType type) { pending_.types.push_back(std::move(type)); }
  /// What is to be done when all has arrived.
  void then(std::function<void()> finish) { finish_ = std::move(finish); }

  void wait(Stream&) override;
  void abandon() noexcept override;
  std::optional<Clock::time_point> ended() const override { return ended_; }
  /// Lets MPI work on it, and notes the end when it sees it.
  void progress();

 private:
  bool open() const noexcept { return met_ < pending_.requests.size(); }
  void leave() noexcept;

  std::shared_ptr<MpiState> state_;
  std::string_view op_;
  std::string communicator_;
  MpiRequests pending_;
  std::size_t met_ = 0;  // requests that have ended: the first ones
  std::function<void()> finish_;
  std::optional<Clock::time_point> ended_;
};

/// Takes over `comm`.
std::unique_ptr<Communicator> make_mpi_communicator(std::shared_ptr<MpiState> state, FlightRecorder& recorder, Membership members,
                                                    MPI_Comm comm, MpiLimits limits);

}  // namespace yard
