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

/// overlapped: the caller computes before it waits; now: the caller waits immediately, so that the backend may use a faster blocking call.
enum class When : std::uint8_t { overlapped, now };

/// Group membership, indexed by group rank; equal on all of its ranks.
struct Membership {
  std::string name;              // as in reports: "world", "expert"
  int rank = 0;                  // group rank of the caller
  std::vector<int> world_ranks;  // world rank of each group rank
  std::vector<int> nodes;        // node number of each group rank
};

/// One tensor of an all-to-all: rows of `in` are sent, rows of `out` are received.
struct AllToAllPart {
  Tensor in, out;
};

/// Consecutive rows of a tensor that are sent to, or received from, one rank of the group (the rank itself: a local copy). The n-th run
/// that a rank sends to a peer has as many rows as the n-th run that the peer receives from it.
struct RowRun {
  int peer = 0;
  Index first = 0, rows = 0;
};

/// Collectives among the ranks of a group. Every rank makes the same calls in the same order (law 14), even with zero rows. Counts are in
/// rows, entries of the first axis (law 5); a call's tensors have the same row width and dtype on every rank. The public functions check
/// and record, the private ones transfer (law 7): wrong arguments throw Error, on the rank that passes them, before anything is sent.
///
/// An operation starts after the work already queued on the stream; its result is visible to work queued after `Work::wait`. Until then
/// inputs must not change and outputs must not be read. Works may be waited for in any order.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return members_.rank; }
  int size() const noexcept { return static_cast<int>(members_.nodes.size()); }
  const std::string& name() const noexcept { return members_.name; }
  /// Node number of each group rank; equal on all ranks.
  std::span<const int> nodes() const noexcept { return members_.nodes; }
  /// World rank of each group rank.
  std::span<const int> world_ranks() const noexcept { return members_.world_ranks; }
  /// The log that records this rank's collectives.
  EventLog& log() const noexcept { return log_; }
  /// A communicator of the ranks that passed the same color (not negative), ordered by (key, rank). Collective.
  std::unique_ptr<Communicator> split(int color, int key, std::string name);
  /// Progresses outstanding operations of this rank, on any communicator, and completes their records. Never blocks.
  void progress();

  /// Reduces `inout` element-wise over all ranks, in an order that is the same in every run; every rank gets the result. f32, f64 or i64.
  /// If a value is NaN, max and min are unspecified and may differ between ranks.
  Work all_reduce(Stream&, Label, const Tensor& inout, Reduce = Reduce::sum, When = When::overlapped);
  /// whole = all ranks' parts, concatenated in rank order.                 part: (n, ...)  whole: (size * n, ...)
  /// `part` may be this rank's own range of `whole`.
  Work all_gather(Stream&, Label, const Tensor& part, const Tensor& whole, When = When::overlapped);
  /// part = this rank's range of the sum of all ranks' wholes, added in rank order.   whole: (size * n, ...)  part: (n, ...)  f32
  /// `part` may be this rank's own range of `whole`.
  Work reduce_scatter(Stream&, Label, const Tensor& whole, const Tensor& part, When = When::overlapped);
  /// Exchanges rows of several tensors in one operation: for each part, sends the runs `send` of `in` and receives the runs `receive` of
  /// `out`. Rows of `out` outside all runs are unchanged; runs of `receive` must not overlap.
  Work all_to_all(Stream&, Label, std::span<const AllToAllPart> parts, std::span<const RowRun> send, std::span<const RowRun> receive,
                  When = When::overlapped);
  /// Sends send[r] rows of `in` to rank r, in rank order, and receives receive[r] rows from rank r into `out`, in rank order.
  Work all_to_all(Stream&, Label, const Tensor& in, std::span<const Index> send, const Tensor& out, std::span<const Index> receive,
                  When = When::overlapped);
  /// Copies `inout` of rank `root` to all ranks.
  Work broadcast(Stream&, Label, const Tensor& inout, int root);
  /// Sends `out` to rank `to` and receives `in` from rank `from` (if either is this rank, both must be).
  Work send_receive(Stream&, Label, const Tensor& out, int to, const Tensor& in, int from);
  /// Blocks the host until all ranks have entered the barrier.
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

  // Called with valid arguments, for groups of two or more ranks. They return null if the operation has already completed.
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
  int group_;  // index in EventLog::groups()
  Index peers_within_ = 0, peers_between_ = 0;
};

/// Elements per entry of the first axis, 1 for vectors: the row width, which must be equal on all ranks.
Index row_elements(const Tensor& tensor);
/// Bytes per entry of the first axis.
Index row_bytes(const Tensor& tensor);

}  // namespace yard
