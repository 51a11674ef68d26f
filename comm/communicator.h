#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/profiler.h"
#include "core/tensor/tensor.h"
#include "core/work.h"

namespace yard {

class FlightRecorder;

/// What a collective is for: {"dispatch", 3} is reported as layer.3.dispatch.
struct Label {
  std::string_view phase;  // a literal: records keep the view
  int layer = -1;
};

enum class Reduce : std::uint8_t { sum, max, min };

/// now: the caller waits at once, so that a blocking call may be used (it is faster).
enum class When : std::uint8_t { overlapped, now };

/// Ranks that meet in collectives. Every member makes the same calls in the same order (law 14), also with zero rows. Counts are lengths
/// (entries of the first axis, law 5); tensors of a call have the same width and dtype on every rank. The public functions check and
/// record, the private ones move (law 7): a wrong shape throws on the rank that passes it before anything is sent.
///
/// A call starts after the stream's work so far; its result is there for work put on the stream after `Work::wait`. Until then inputs must
/// not change and outputs must not be read. Works may be waited for in any order.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// "world", "world/expert": as reports name it.
  virtual const std::string& name() const noexcept = 0;
  /// The node number of every member, equal on all ranks.
  virtual std::span<const int> nodes() const noexcept = 0;
  /// The members that passed the same color, ordered by (key, rank).
  virtual std::unique_ptr<Communicator> split(int color, int key, std::string name) = 0;
  /// Lets transfers under way go on; what Context::poll calls.
  virtual void progress() {}

  /// Every rank ends with the element-wise reduction of all ranks' values, added in an order that is the same in every run. f32, f64, i64.
  Work all_reduce(Stream&, Profiler&, Label, const Tensor& inout, Reduce = Reduce::sum, When = When::overlapped);
  /// whole = the ranks' parts one after the other.                         part: (n, ...)  whole: (size * n, ...)
  /// `part` may be this rank's own range of `whole`.
  Work all_gather(Stream&, Profiler&, Label, const Tensor& part, const Tensor& whole, When = When::overlapped);
  /// part = this rank's range of the sum of all ranks' wholes.              whole: (size * n, ...)  part: (n, ...)  f32
  Work reduce_scatter(Stream&, Profiler&, Label, const Tensor& whole, const Tensor& part, When = When::overlapped);
  /// Sends send[r] rows of `in` to rank r, in rank order, and receives receive[r] rows from rank r into `out`, in rank order.
  Work all_to_all(Stream&, Profiler&, Label, const Tensor& in, std::span<const Index> send, const Tensor& out,
                  std::span<const Index> receive, When = When::overlapped);
  Work broadcast(Stream&, Profiler&, Label, const Tensor& inout, int root);
  /// Sends `out` to rank `to` and receives `in` from rank `from` (either may be this rank).
  Work send_receive(Stream&, Profiler&, Label, const Tensor& out, int to, const Tensor& in, int from);
  void barrier(Profiler&, Label);

 protected:
  explicit Communicator(FlightRecorder& recorder) : recorder_(recorder) {}
  FlightRecorder& recorder() const noexcept { return recorder_; }

 private:
  virtual Work do_all_reduce(Stream&, const Tensor& inout, Reduce, When) = 0;
  virtual Work do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When) = 0;
  virtual Work do_reduce_scatter(Stream&, const Tensor& whole, const Tensor& part, When) = 0;
  virtual Work do_all_to_all(Stream&, const Tensor& in, std::span<const Index> send, const Tensor& out, std::span<const Index> receive,
                             When) = 0;
  virtual Work do_broadcast(Stream&, const Tensor& inout, int root) = 0;
  virtual Work do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) = 0;
  virtual void do_barrier() = 0;

  FlightRecorder& recorder_;
};

}  // namespace yard
