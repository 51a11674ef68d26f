#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <numeric>

#include "comm/mpi_transfer.h"

namespace yard {
namespace {

std::byte* byte_at(const Tensor& tensor, Index offset) { return static_cast<std::byte*>(tensor.raw()) + offset; }

/// part = the sum of the ranks' addends in rank order, in blocks that stay in the first-level cache; `part` may be this rank's addend.
void add_in_rank_order(const std::vector<const float*>& addends, float* part, Index elements) {
  constexpr Index kBlock = 2048;
  const Index blocks = (elements + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static) if (elements > 65536)
  for (Index block = 0; block < blocks; ++block) {
    std::array<float, kBlock> sum;
    const Index first = block * kBlock;
    const Index count = std::min(kBlock, elements - first);
    std::copy_n(addends[0] + first, count, sum.data());
    for (std::size_t rank = 1; rank < addends.size(); ++rank) {
      const float* values = addends[rank] + first;
      for (Index i = 0; i < count; ++i) sum[static_cast<std::size_t>(i)] += values[i];
    }
    std::copy_n(sum.data(), count, part + first);
  }
}

/// Splits the runs between this rank and a peer into messages, each a list of ranges with at most `most` rows in total. Both ends derive
/// the same messages, since their runs match. A long run is a message of its own, which shared memory moves in one copy; short runs are
/// gathered into one message with a derived type, because a message costs about a microsecond.
std::vector<std::vector<RowRange>> messages_of(std::span<const RowRun> runs, int peer, Index width, Index most) {
  constexpr Index kLongRun = Index{64} << 10;  // bytes, on average
  std::vector<RowRange> ranges;
  Index total = 0;
  for (const RowRun& run : runs) {
    if (run.peer != peer || run.rows == 0) continue;
    ranges.push_back({run.first, run.rows});
    total += run.rows;
  }
  const bool separate = total * width >= kLongRun * static_cast<Index>(ranges.size());
  std::vector<std::vector<RowRange>> messages;
  Index room = 0;  // rows that still fit into the last message
  for (const RowRange& range : ranges) {
    if (separate) room = 0;
    for (Index row = 0; row < range.rows;) {
      if (room == 0) {
        messages.emplace_back();
        room = most;
      }
      const Index count = std::min(room, range.rows - row);
      auto& message = messages.back();
      const Index first = range.first + row;
      if (!message.empty() && message.back().first + message.back().rows == first) {
        message.back().rows += count;  // contiguous in memory
      } else {
        message.push_back({first, count});
      }
      room -= count;
      row += count;
    }
  }
  return messages;
}

MPI_Datatype mpi_type(DType type) { return type == DType::f32 ? MPI_FLOAT : type == DType::f64 ? MPI_DOUBLE : MPI_INT64_T; }
MPI_Op mpi_op(Reduce reduce) { return reduce == Reduce::sum ? MPI_SUM : reduce == Reduce::max ? MPI_MAX : MPI_MIN; }

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiState> state, EventLog& own, Membership members, MPI_Comm comm, MpiLimits limits)
      : Communicator(own, std::move(members)), state_(std::move(state)), comm_(comm), limits_(limits) {}
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0 || std::uncaught_exceptions() > 0) return;
    if (state_->drain(1.0)) MPI_Comm_free(&comm_);  // freeing a communicator with pending requests is erroneous
  }

 private:
  using Started = std::unique_ptr<Transfer>;

  void do_progress() override {
    for (std::size_t i = 0; i < state_->outstanding.size(); ++i) state_->outstanding[i]->progress();
  }

  std::unique_ptr<MpiTransfer> transfer(std::string_view op) const { return std::make_unique<MpiTransfer>(state_, op, name()); }
  void ok(int code, std::string_view op) const { check_mpi(code, op, name()); }
  static void check_host(std::string_view op, const Tensor& tensor) {
    check(tensor.device().type == DeviceType::cpu, "", op,
          " over MPI moves tensors of the host; tensors of a device need run.communication=staged");
  }
  /// Rows of `width` bytes in one message.
  Index rows_at_once(Index width) const { return std::clamp<Index>(limits_.move_bytes / width, 1, limits_.move_rows); }

  /// Posts receives of `rows` rows from `peer`, split into messages as on the sender.
  void receive_rows(MpiTransfer& into, std::byte* values, Index rows, Index width, int peer) const {
    const Index most = rows_at_once(width);
    for (Index row = 0; row < rows; row += most) {
      const int count = static_cast<int>(std::min(most, rows - row));
      ok(MPI_Irecv(values + row * width, count, state_->row_type(width), peer, 0, comm_, into.next()), "MPI_Irecv");
    }
  }
  void send_rows(MpiTransfer& from, const std::byte* values, Index rows, Index width, int peer) const {
    const Index most = rows_at_once(width);
    for (Index row = 0; row < rows; row += most) {
      const int count = static_cast<int>(std::min(most, rows - row));
      ok(MPI_Isend(values + row * width, count, state_->row_type(width), peer, 0, comm_, from.next()), "MPI_Isend");
    }
  }
  /// Round t: send to rank + t, receive from rank - t (modulo size).
  int sends_to(int round) const { return (rank() + round) % size(); }
  int receives_from(int round) const { return (rank() - round + size()) % size(); }

  Started do_all_reduce(Stream&, const Tensor& inout, Reduce reduce, When when) override {
    check_host("all_reduce", inout);
    auto work = when == When::now ? nullptr : transfer("all_reduce");
    const auto width = static_cast<Index>(size_of(inout.dtype()));
    for (Index first = 0; first < inout.elements(); first += limits_.reduce_elements) {
      const int count = static_cast<int>(std::min(limits_.reduce_elements, inout.elements() - first));
      std::byte* values = byte_at(inout, first * width);
      if (work) {
        ok(MPI_Iallreduce(MPI_IN_PLACE, values, count, mpi_type(inout.dtype()), mpi_op(reduce), comm_, work->next()), "all_reduce");
      } else {
        ok(MPI_Allreduce(MPI_IN_PLACE, values, count, mpi_type(inout.dtype()), mpi_op(reduce), comm_), "all_reduce");
      }
    }
    if (work) work->keep(inout);
    return work;
  }

  Started do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When when) override {
    check_host("all_gather", whole);
    if (whole.bytes() == 0) return nullptr;
    auto work = when == When::now ? nullptr : transfer("all_gather");
    const Index width = row_bytes(part);
    const Index rows = part.length();
    const Index most = rows_at_once(width);
    const bool in_place = part.raw() == byte_at(whole, rank() * rows * width);
    for (Index first = 0; first < rows; first += most) {
      const Index count = std::min(most, rows - first);
      // One element of the spread type is this block of one rank's part; the next element is in the next rank's part.
      const bool whole_part = count == rows;
      const MPI_Datatype row = state_->row_type(width);
      MpiType spread = whole_part ? MpiType() : make_spread_type(row, count, rows * width);
      const void* from = in_place ? MPI_IN_PLACE : byte_at(part, first * width);
      std::byte* into = byte_at(whole, first * width);
      const int sent = static_cast<int>(count);
      const int received = whole_part ? sent : 1;
      const MPI_Datatype type = whole_part ? row : spread.get();
      if (work) {
        ok(MPI_Iallgather(from, sent, row, into, received, type, comm_, work->next()), "all_gather");
        work->keep(std::move(spread));
      } else {
        ok(MPI_Allgather(from, sent, row, into, received, type, comm_), "all_gather");
      }
    }
    if (work) {
      work->keep(part);
      work->keep(whole);
    }
    return work;
  }

  /// Direct reduce-scatter: bandwidth-optimal, summed in rank order.
  Started do_reduce_scatter(Stream& stream, const Tensor& whole, const Tensor& part, When) override {
    check_host("reduce_scatter", whole);
    if (whole.bytes() == 0) return nullptr;
    auto work = transfer("reduce_scatter");
    const Index width = row_bytes(part);
    const auto bytes = static_cast<Index>(part.bytes());
    const Tensor arriving(stream, {size() - 1, part.elements()});
    std::vector<const float*> addends(static_cast<std::size_t>(size()));
    addends[static_cast<std::size_t>(rank())] = whole.data<float>() + rank() * part.elements();
    for (int round = 1; round < size(); ++round) {
      const int peer = receives_from(round);
      std::byte* into = byte_at(arriving, (round - 1) * bytes);
      addends[static_cast<std::size_t>(peer)] = arriving.data<float>() + (round - 1) * part.elements();
      receive_rows(*work, into, part.length(), width, peer);
    }
    for (int round = 1; round < size(); ++round) {
      send_rows(*work, byte_at(whole, sends_to(round) * bytes), part.length(), width, sends_to(round));
    }
    work->keep(whole);
    work->keep(part);
    work->keep(arriving);
    work->then([addends = std::move(addends), values = part.data<float>(), elements = part.elements()] {
      add_in_rank_order(addends, values, elements);
    });
    return work;
  }

  /// Point-to-point messages instead of MPI_Alltoallv: equally fast, displacements cannot overflow, and each pair of ranks splits its long
  /// runs independently; a collective would need the largest count of the group on every rank.
  Started do_all_to_all(Stream&, std::span<const AllToAllPart> parts, std::span<const RowRun> send, std::span<const RowRun> receive,
                        When) override {
    auto work = transfer("all_to_all");
    for (const auto& [in, out] : parts) {
      check_host("all_to_all", in);
      const Index width = row_bytes(in);
      if (width == 0) continue;
      work->keep(in);
      work->keep(out);
      copy_own_rows(in, send, out, receive, width);
      const Index most = rows_at_once(width);
      for (int round = 1; round < size(); ++round) {
        for (const auto& ranges : messages_of(receive, receives_from(round), width, most))
          receive_ranges(*work, out, ranges, width, receives_from(round));
      }
      for (int round = 1; round < size(); ++round) {
        for (const auto& ranges : messages_of(send, sends_to(round), width, most)) send_ranges(*work, in, ranges, width, sends_to(round));
      }
    }
    if (work->empty()) return nullptr;
    return work;
  }

  void copy_own_rows(const Tensor& in, std::span<const RowRun> send, const Tensor& out, std::span<const RowRun> receive,
                     Index width) const {
    auto from = send.begin();
    for (const RowRun& to : receive) {
      if (to.peer != rank() || to.rows == 0) continue;
      from = std::find_if(from, send.end(), [&](const RowRun& run) { return run.peer == rank() && run.rows > 0; });
      std::memcpy(byte_at(out, to.first * width), byte_at(in, from->first * width), static_cast<std::size_t>(to.rows * width));
      ++from;
    }
  }

  void receive_ranges(MpiTransfer& work, const Tensor& out, const std::vector<RowRange>& ranges, Index width, int peer) const {
    const MPI_Datatype row = state_->row_type(width);
    if (ranges.size() == 1) {
      const auto& [first, rows] = ranges.front();
      ok(MPI_Irecv(byte_at(out, first * width), static_cast<int>(rows), row, peer, 0, comm_, work.next()), "MPI_Irecv");
      return;
    }
    MpiType type = make_ranges_type(row, width, ranges);
    ok(MPI_Irecv(out.raw(), 1, type.get(), peer, 0, comm_, work.next()), "MPI_Irecv");
    work.keep(std::move(type));
  }
  void send_ranges(MpiTransfer& work, const Tensor& in, const std::vector<RowRange>& ranges, Index width, int peer) const {
    const MPI_Datatype row = state_->row_type(width);
    if (ranges.size() == 1) {
      const auto& [first, rows] = ranges.front();
      ok(MPI_Isend(byte_at(in, first * width), static_cast<int>(rows), row, peer, 0, comm_, work.next()), "MPI_Isend");
      return;
    }
    MpiType type = make_ranges_type(row, width, ranges);
    ok(MPI_Isend(in.raw(), 1, type.get(), peer, 0, comm_, work.next()), "MPI_Isend");
    work.keep(std::move(type));
  }

  Started do_broadcast(Stream&, const Tensor& inout, int root) override {
    check_host("broadcast", inout);
    if (inout.bytes() == 0) return nullptr;
    auto work = transfer("broadcast");
    const bool scalar = inout.shape().rank() == 0;
    const Index width = row_bytes(inout);
    const Index rows = scalar ? 1 : inout.length();
    const Index most = rows_at_once(width);
    for (Index row = 0; row < rows; row += most) {
      const int count = static_cast<int>(std::min(most, rows - row));
      ok(MPI_Ibcast(byte_at(inout, row * width), count, state_->row_type(width), root, comm_, work->next()), "broadcast");
    }
    work->keep(inout);
    return work;
  }

  Started do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) override {
    check_host("send_receive", in);
    const Index width = row_bytes(in);
    if (to == rank() && in.bytes() > 0) std::memcpy(in.raw(), out.raw(), in.bytes());
    if (to == rank() || width == 0) return nullptr;
    auto work = transfer("send_receive");
    receive_rows(*work, byte_at(in, 0), in.length(), width, from);
    send_rows(*work, byte_at(out, 0), out.length(), width, to);
    work->keep(in);
    work->keep(out);
    if (work->empty()) return nullptr;
    return work;
  }

  void do_barrier() override { ok(MPI_Barrier(comm_), "barrier"); }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    MPI_Comm part = MPI_COMM_NULL;
    ok(MPI_Comm_split(comm_, color, key, &part), "split");
    Membership chosen{std::move(name), 0, {}, {}};
    int count = 0;
    ok(MPI_Comm_rank(part, &chosen.rank), "split");
    ok(MPI_Comm_size(part, &count), "split");
    std::vector<int> parents(static_cast<std::size_t>(count));
    const int mine = rank();
    ok(MPI_Allgather(&mine, 1, MPI_INT, parents.data(), 1, MPI_INT, part), "split");
    for (const int parent : parents) {
      chosen.world_ranks.push_back(world_ranks()[static_cast<std::size_t>(parent)]);
      chosen.nodes.push_back(nodes()[static_cast<std::size_t>(parent)]);
    }
    return std::make_unique<MpiCommunicator>(state_, log(), std::move(chosen), part, limits_);
  }

  std::shared_ptr<MpiState> state_;
  MPI_Comm comm_;
  MpiLimits limits_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(std::shared_ptr<MpiState> state, EventLog& log, Membership members, MPI_Comm comm,
                                                    MpiLimits limits) {
  return std::make_unique<MpiCommunicator>(std::move(state), log, std::move(members), comm, limits);
}

}  // namespace yard
