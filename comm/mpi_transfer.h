#pragma once

#include <mpi.h>

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/handle.h"

namespace yard {

/// Throws Error with MPI's error string unless `code` is MPI_SUCCESS.
void check_mpi(int code, std::string_view op, const std::string& communicator);

struct MpiTypeTraits {
  using Type = MPI_Datatype;
  static Type null() { return MPI_DATATYPE_NULL; }
  static void destroy(Type type) noexcept;
};
using MpiType = Handle<MpiTypeTraits>;

/// Consecutive rows of a tensor.
struct RowRange {
  Index first = 0, rows = 0;
};

/// A committed type of one row: `bytes` contiguous bytes. Messages are counted in rows, so that their limit is 2^31 rows.
MpiType make_row_type(Index bytes);
/// A type of `rows` rows, resized so that the next element starts `extent` bytes after this one.
MpiType make_spread_type(MPI_Datatype row, Index rows, Index extent);
/// A type of several ranges of rows, `width` bytes per row, as one element.
MpiType make_ranges_type(MPI_Datatype row, Index width, std::span<const RowRange> ranges);

/// MPI requests, with the tensors and types that MPI uses until they complete.
struct MpiRequests {
  std::vector<MPI_Request> requests;
  std::vector<Tensor> tensors;
  std::vector<MpiType> types;
};

class MpiTransfer;

/// State shared by all communicators of a runtime.
class MpiState {
 public:
  ~MpiState();
  std::map<Index, MpiType> row_types;     // by bytes
  std::vector<MpiTransfer*> outstanding;  // for `progress`
  std::vector<MpiRequests> abandoned;     // of works destroyed during stack unwinding

  MPI_Datatype row_type(Index bytes);
  /// Progresses abandoned requests for at most `seconds` in all; returns whether all have completed.
  bool drain(double seconds);

 private:
  bool hangs_ = false;
};

/// A collective over MPI.
class MpiTransfer final : public Transfer {
 public:
  MpiTransfer(std::shared_ptr<MpiState> state, std::string_view op, const std::string& communicator);
  ~MpiTransfer() override;
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;

  /// Where the next call stores its request.
  MPI_Request* next() { return &pending_.requests.emplace_back(MPI_REQUEST_NULL); }
  bool empty() const noexcept { return pending_.requests.empty(); }
  void keep(const Tensor& tensor) { pending_.tensors.push_back(tensor); }
  void keep(MpiType type) { pending_.types.push_back(std::move(type)); }
  /// Called by `wait` when all requests have completed.
  void then(std::function<void()> finish) { finish_ = std::move(finish); }

  void wait(Stream&) override;
  bool done() override;
  void abandon() noexcept override;
  std::optional<Clock::time_point> completed() override { return completed_; }
  /// Tests requests in order and records the completion time.
  void progress();

 private:
  bool incomplete() const noexcept { return complete_requests_ < pending_.requests.size(); }
  void request_completed();
  void unlist() noexcept;

  std::shared_ptr<MpiState> state_;
  std::string_view op_;
  std::string communicator_;
  MpiRequests pending_;
  std::size_t complete_requests_ = 0;  // number of leading requests that have completed
  std::function<void()> finish_;
  std::optional<Clock::time_point> completed_;
};

/// Takes ownership of `comm`.
std::unique_ptr<Communicator> make_mpi_communicator(std::shared_ptr<MpiState> state, EventLog& log, Membership members, MPI_Comm comm,
                                                    MpiLimits limits);

}  // namespace yard
