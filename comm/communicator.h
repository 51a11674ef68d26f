#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/event_log.h"
#include "comm/label.h"
#include "comm/transfer.h"
#include "core/tensor/tensor.h"
#include "core/work.h"

namespace yard {

enum class Reduce : std::uint8_t { sum, max, min };

/// now: the caller waits at once, so that a blocking call may be used (it is faster).
enum class When : std::uint8_t { overlapped, now };

/// Group membership, indexed by group rank; equal on all of its ranks.
struct Membership {
  std::string name;              // "world", "expert": as reports name it
  int rank = 0;                  // group rank of the caller
  std::vector<int> world_ranks;  // rank in the whole job
  std::vector<int> nodes;        // node number in the whole job
};

/// One tensor of an all-to-all: rows of `in` leave, rows arrive in `out`.
struct AllToAllPart {
  Tensor in, out;
};

/// Consecutive rows of a tensor that go to, or come from, one rank of the group (its own rank: a local copy). The runs between two ranks
/// match in order, and run by run in the number of rows.
struct RowRun {
  int peer = 0;
  Index first = 0, rows = 0;
};

/// Collectives among the ranks of a group. Every rank makes the same calls in the same order (law 14), also with zero rows. Counts are
/// rows: entries of the first axis (law 5); tensors of a call have the same width and dtype on every rank. The public functions check and
/// record, the private ones transfer (law 7): a wrong shape throws on the rank that passes it before anything is sent.
///
/// An operation starts after the work queued on the stream so far; its result is visible to work queued after `Work::wait`. Until then
/// inputs must not change and outputs must not be read. Works may be waited for in any order.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return members_.rank; }
  int size() const noexcept { return static_cast<int>(members_.nodes.size()); }
  const std::string& name() const noexcept { return members_.name; }
  /// The node number of every rank, equal on all ranks.
  std::span<const int> nodes() const noexcept { return members_.nodes; }
  /// The rank in the whole job of every rank of the group.
  std::span<const int> world_ranks() const noexcept { return members_.world_ranks; }
  /// Where this rank's collectives are recorded.
  EventLog& log() const noexcept { return log_; }
  /// The ranks that passed the same color (not negative), ordered by (key, rank).
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// Progresses outstanding operations of this rank, on any communicator, and completes their records. Never blocks.
  void progress();

  /// Every rank ends with the element-wise reduction of all ranks' values, in an order that is the same in every run. f32, f64, i64. The
  /// maximum or minimum of values with a NaN among them is unspecified and may differ between ranks.
  Work all_reduce(Stream&, Label, const Tensor& inout, Reduce = Reduce::sum, When = When::overlapped);
  /// whole = the ranks' parts one after the other.                         part: (n, ...)  whole: (size * n, ...)
  /// `part` may be this rank's own range of `whole`.
  Work all_gather(Stream&, Label, const Tensor& part, const Tensor& whole, When = When::overlapped);
  /// part = this rank's range of the sum of all ranks' wholes, added in rank order.   whole: (size * n, ...)  part: (n, ...)  f32
  /// `part` may be this rank's own range of `whole`.
  Work reduce_scatter(Stream&, Label, const Tensor& whole, const Tensor& part, When = When::overlapped);
  /// Moves the rows of several tensors in one operation: every part's `in` along the runs `send`, into every part's `out` along the runs
  /// `receive`. Rows of `out` in no run stay as they are; runs of `receive` must not overlap.
  Work all_to_all(Stream&, Label, std::span<const AllToAllPart> parts, std::span<const RowRun> send, std::span<const RowRun> receive,
                  When = When::overlapped);
  /// Sends send[r] rows of `in` to rank r, in rank order, and receives receive[r] rows from rank r into `out`, in rank order.
  Work all_to_all(Stream&, Label, const Tensor& in, std::span<const Index> send, const Tensor& out, std::span<const Index> receive,
                  When = When::overlapped);
  Work broadcast(Stream&, Label, const Tensor& inout, int root);
  /// Sends `out` to rank `to` and receives `in` from rank `from` (either may be this rank: then both are).
  Work send_receive(Stream&, Label, const Tensor& out, int to, const Tensor& in, int from);
  void barrier(Label);

 protected:
  Communicator(EventLog& log, Membership members);
  const Membership& members() const noexcept { return members_; }

 private:
  class RecordedWork;
  struct Call;
  template <class Body>
  Work begin(Stream*, const Call&, Body&&);
  void count_bytes(Call&, std::span<const PeerBytes>) const;
  void check_tensor(std::string_view op, std::string_view which, const Stream&, const Tensor&) const;
  void check_parts(std::string_view op, const Stream&, const Tensor& part, const Tensor& whole) const;
  void check_runs(const Tensor&, std::span<const RowRun>, std::string_view which) const;
  void check_rank(std::string_view op, std::string_view which, int rank) const;

  // Called with checked arguments, on groups of two or more ranks. Null where the operation has completed already.
  using Started = std::unique_ptr<Transfer>;
  virtual Started do_all_reduce(Stream&, const Tensor& inout, Reduce, When) = 0;
  virtual Started do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When) = 0;
  virtual Started do_reduce_scatter(Stream&, const Tensor& whole, const Tensor& part, When) = 0;
  virtual Started do_all_to_all(Stream&, std::span<const AllToAllPart> parts, std::span<const RowRun> send, std::span<const RowRun> receive,
                                When) = 0;
  virtual Started do_broadcast(Stream&, const Tensor& inout, int root) = 0;
  virtual Started do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) = 0;
  virtual void do_barrier() = 0;
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;
  virtual void do_progress() {}

  EventLog& log_;
  Membership members_;
  int group_;  // in the log
  Index peers_within_ = 0, peers_between_ = 0;
};

/// Elements in one entry of the first axis, 1 for vectors: the width that must agree on all ranks.
Index row_elements(const Tensor& tensor);
/// Bytes in one entry of the first axis.
Index row_bytes(const Tensor& tensor);

}  // namespace yard
