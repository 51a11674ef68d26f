#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/flight_recorder.h"
#include "core/profiler.h"
#include "core/tensor/tensor.h"
#include "core/work.h"

namespace yard {

enum class Reduce : std::uint8_t { sum, max, min };

/// now: the caller waits at once, so that a blocking call may be used (it is faster).
enum class When : std::uint8_t { overlapped, now };

/// Who meets: one entry for every member in rank order, equal on all of them.
struct Membership {
  std::string name;              // "world", "world/expert": as reports name it
  int rank = 0;                  // of the caller
  std::vector<int> world_ranks;  // in the whole job
  std::vector<int> nodes;        // the node number in the whole job
};

/// A collective under way in a backend.
class Transfer : public Work::State {
 public:
  /// When its end was seen, where `progress` has seen it before anybody waited.
  virtual std::optional<Clock::time_point> ended() const { return std::nullopt; }
};

/// Ranks that meet in collectives. Every member makes the same calls in the same order (law 14), also with zero rows. Counts are lengths
/// (entries of the first axis, law 5); tensors of a call have the same width and dtype on every rank. The public functions check and
/// record, the private ones move (law 7): a wrong shape throws on the rank that passes it before anything is sent.
///
/// A call starts after the stream's work so far; its result is there for work put on the stream after `Work::wait`. Until then inputs must
/// not change and outputs must not be read. Works may be waited for in any order. The profiler must outlive them.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return members_.rank; }
  int size() const noexcept { return static_cast<int>(members_.nodes.size()); }
  const std::string& name() const noexcept { return members_.name; }
  /// The node number of every member, equal on all ranks.
  std::span<const int> nodes() const noexcept { return members_.nodes; }
  /// The rank of every member in the whole job.
  std::span<const int> world_ranks() const noexcept { return members_.world_ranks; }
  /// The members that passed the same color (not negative), ordered by (key, rank).
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// Lets transfers under way go on; what Context::poll calls.
  virtual void progress() {}

  /// Every rank ends with the element-wise reduction of all ranks' values, added in an order that is the same in every run. f32, f64, i64.
  /// The maximum or minimum of values with a NaN among them is unspecified and may differ between ranks.
  Work all_reduce(Stream&, Profiler&, Label, const Tensor& inout, Reduce = Reduce::sum, When = When::overlapped);
  /// whole = the ranks' parts one after the other.                         part: (n, ...)  whole: (size * n, ...)
  /// `part` may be this rank's own range of `whole`.
  Work all_gather(Stream&, Profiler&, Label, const Tensor& part, const Tensor& whole, When = When::overlapped);
  /// part = this rank's range of the sum of all ranks' wholes, added in rank order.   whole: (size * n, ...)  part: (n, ...)  f32
  /// `part` may be this rank's own range of `whole`.
  Work reduce_scatter(Stream&, Profiler&, Label, const Tensor& whole, const Tensor& part, When = When::overlapped);
  /// Sends send[r] rows of `in` to rank r, in rank order, and receives receive[r] rows from rank r into `out`, in rank order.
  Work all_to_all(Stream&, Profiler&, Label, const Tensor& in, std::span<const Index> send, const Tensor& out,
                  std::span<const Index> receive, When = When::overlapped);
  Work broadcast(Stream&, Profiler&, Label, const Tensor& inout, int root);
  /// Sends `out` to rank `to` and receives `in` from rank `from` (either may be this rank: then both are).
  Work send_receive(Stream&, Profiler&, Label, const Tensor& out, int to, const Tensor& in, int from);
  void barrier(Profiler&, Label);

 protected:
  Communicator(FlightRecorder& recorder, Membership members);
  FlightRecorder& recorder() const noexcept { return recorder_; }
  const Membership& members() const noexcept { return members_; }

 private:
  struct Call;
  template <class Body>
  Work begin(Stream*, Profiler&, const Call&, Body&&);
  void check_tensor(std::string_view op, std::string_view which, const Stream&, const Tensor&) const;
  void check_parts(std::string_view op, const Stream&, const Tensor& part, const Tensor& whole) const;
  void check_rank(std::string_view op, std::string_view which, int rank) const;

  // Called with checked arguments, on communicators of two or more. Null where the transfer has ended already.
  using Started = std::unique_ptr<Transfer>;
  virtual Started do_all_reduce(Stream&, const Tensor& inout, Reduce, When) = 0;
  virtual Started do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When) = 0;
  virtual Started do_reduce_scatter(Stream&, const Tensor& whole, const Tensor& part, When) = 0;
  virtual Started do_all_to_all(Stream&, const Tensor& in, std::span<const Index> send, const Tensor& out, std::span<const Index> receive,
                                When) = 0;
  virtual Started do_broadcast(Stream&, const Tensor& inout, int root) = 0;
  virtual Started do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) = 0;
  virtual void do_barrier() = 0;
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;

  FlightRecorder& recorder_;
  Membership members_;
  int channel_;
  Index peers_within_ = 0, peers_between_ = 0;
};

/// Elements in one entry of the first axis, 1 for vectors: the width that must agree on all ranks.
Index row_elements(const Tensor& tensor);
/// Bytes in one entry of the first axis.
Index row_bytes(const Tensor& tensor);

}  // namespace yard
