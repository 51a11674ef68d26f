#include "comm/communicator.h"

#include <algorithm>
#include <numeric>

namespace yard {
namespace {

YARD_COLLECTIVE kSplit{"split"};

const std::byte* first_byte(const Tensor& tensor) { return static_cast<const std::byte*>(tensor.raw()); }

bool overlap(const Tensor& a, const Tensor& b) {
  return a.bytes() > 0 && b.bytes() > 0 && first_byte(a) < first_byte(b) + b.bytes() && first_byte(b) < first_byte(a) + a.bytes();
}

/// A collective in a group of one rank: a copy in stream order.
void copy_values(Stream& stream, const Tensor& from, const Tensor& to) {
  if (from.raw() != to.raw() && from.bytes() > 0) stream.copy(to.raw(), from.raw(), from.bytes());
}

/// The non-empty runs from a rank to itself: the send runs, then the receive runs.
std::pair<std::vector<RowRun>, std::vector<RowRun>> local_runs(std::span<const RowRun> send, std::span<const RowRun> receive, int rank) {
  std::pair<std::vector<RowRun>, std::vector<RowRun>> result;
  const auto own = [&](const RowRun& run) { return run.peer == rank && run.rows > 0; };
  std::ranges::copy_if(send, std::back_inserter(result.first), own);
  std::ranges::copy_if(receive, std::back_inserter(result.second), own);
  return result;
}

}  // namespace

Index row_elements(const Tensor& tensor) {
  Index result = 1;
  for (int axis = 1; axis < tensor.shape().rank(); ++axis) result *= tensor.shape()[axis];
  return result;
}

Index row_bytes(const Tensor& tensor) { return row_elements(tensor) * static_cast<Index>(size_of(tensor.dtype())); }

/// One call, as recorded in the event log.
struct Communicator::Call {
  std::string_view op;
  Label label;
  Index rows = 0, bytes_within = 0, bytes_between = 0;
  When when = When::overlapped;
  std::vector<PeerBytes> peers = {};
};

/// The Work that the public functions return: times the wait and closes the record.
class Communicator::RecordedWork final : public Work::State {
 public:
  RecordedWork(EventLog& log, std::uint64_t id, std::shared_ptr<Transfer> transfer) : log_(log), id_(id), transfer_(std::move(transfer)) {}

  void wait(Stream& stream) override {
    const auto from = Clock::now();
    log_.wait(id_);
    try {
      transfer_->wait(stream);
    } catch (...) {
      abandon();
      throw;
    }
    log_.close(id_, seconds_between(from, Clock::now()));
    log_.poll();
  }
  bool done() override { return transfer_->done(); }
  void abandon() noexcept override {
    log_.abandon(id_);
    transfer_->abandon();
  }

 private:
  EventLog& log_;
  std::uint64_t id_;
  std::shared_ptr<Transfer> transfer_;
};

Communicator::Communicator(EventLog& log, Membership members)
    : log_(log), members_(std::move(members)), group_(log.open(members_.name, members_.world_ranks)) {
  for (const int node : members_.nodes) ++(node == members_.nodes[static_cast<std::size_t>(rank())] ? peers_within_ : peers_between_);
  --peers_within_;
}

template <class Body>
Work Communicator::begin(Stream* stream, const Call& call, Body&& body) {
  const auto from = Clock::now();
  CollectiveRecord record;
  record.group = group_;
  record.op = call.op;
  record.label = call.label;
  record.rows = call.rows;
  record.bytes_within = call.bytes_within;
  record.bytes_between = call.bytes_between;
  record.peers = call.peers;
  if (call.when == When::now) record.wait = from;
  const std::uint64_t id = log_.post(std::move(record));
  std::shared_ptr<Transfer> transfer;
  try {
    transfer = body();
  } catch (...) {
    log_.abandon(id);
    throw;
  }
  const auto to = Clock::now();
  log_.posting_returned(id, seconds_between(from, to));
  if (!transfer) {
    log_.close(id, 0);
    log_.complete(id, to);
    return {};
  }
  log_.track(id, transfer);
  Work work(*stream, std::make_unique<RecordedWork>(log_, id, std::move(transfer)));
  if (call.when == When::now) work.wait(*stream);
  return work;
}

void Communicator::progress() {
  do_progress();
  log_.poll();
}

/// Sums the bytes sent to other ranks, within the node and between nodes.
void Communicator::count_bytes(Call& call, std::span<const PeerBytes> peers) const {
  const auto me = static_cast<std::size_t>(rank());
  for (const PeerBytes& each : peers) {
    if (each.peer == rank()) continue;
    (members_.nodes[static_cast<std::size_t>(each.peer)] == members_.nodes[me] ? call.bytes_within : call.bytes_between) += each.sent;
  }
  call.peers.assign(peers.begin(), peers.end());
}

void Communicator::check_tensor(std::string_view op, std::string_view which, const Stream& stream, const Tensor& tensor) const {
  check(tensor.defined(), "", op, " on ", name(), " was given no tensor as `", which, "`; with zero rows it takes a tensor of length 0");
  check(tensor.device() == stream.device(), "", op, " on ", name(), " was given a tensor of another device than its stream's as `", which,
        "`");
}

void Communicator::check_parts(std::string_view op, const Stream& stream, const Tensor& part, const Tensor& whole) const {
  check_tensor(op, "part", stream, part);
  check_tensor(op, "whole", stream, whole);
  check(part.dtype() == whole.dtype(), "", op, " on ", name(), " needs part and whole of one dtype, got ", name_of(part.dtype()), " and ",
        name_of(whole.dtype()));
  check(part.shape().rank() > 0 && whole.length() == size() * part.length() && row_elements(whole) == row_elements(part), "", op, " on ",
        name(), " needs a whole of ", size(), " parts, got a part of ", part.shape(), " and a whole of ", whole.shape());
  const std::byte* own = first_byte(whole) + static_cast<std::size_t>(rank()) * part.bytes();
  check(!overlap(part, whole) || first_byte(part) == own, "", op, " on ", name(),
        ": a part that lies in the whole must be this rank's own range of it, that of rank ", rank());
}

void Communicator::check_rank(std::string_view op, std::string_view which, int rank_given) const {
  check(rank_given >= 0 && rank_given < size(), "", op, " on ", name(), " needs a rank from 0 to ", size() - 1, " as `", which, "`, got ",
        rank_given);
}

void Communicator::check_runs(const Tensor& tensor, std::span<const RowRun> runs, std::string_view which) const {
  for (const RowRun& run : runs) {
    check(run.peer >= 0 && run.peer < size(), "all_to_all on ", name(), " cannot ", which, " rank ", run.peer, " of ", size());
    check(run.first >= 0 && run.rows >= 0 && run.first + run.rows <= tensor.length(), "all_to_all on ", name(), " cannot ", which, " rank ",
          run.peer, " rows ", run.first, " to ", run.first + run.rows, " of a tensor of ", tensor.length());
  }
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  check(color >= 0, "split of ", members_.name, " needs a color that is not negative, got ", color);
  std::unique_ptr<Communicator> result;
  const Call call{"split", {kSplit}, 0, 0, 0, When::now};
  const Work completed = begin(nullptr, call, [&]() -> Started {
    result = do_split(color, key, std::move(name));
    return nullptr;
  });
  return result;
}

Work Communicator::all_reduce(Stream& stream, Label label, const Tensor& inout, Reduce reduce, When when) {
  check_tensor("all_reduce", "inout", stream, inout);
  check(inout.dtype() == DType::f32 || inout.dtype() == DType::f64 || inout.dtype() == DType::i64, "all_reduce on ", name(),
        " reduces f32, f64 and i64, got ", name_of(inout.dtype()));
  // A reduce_scatter and an all_gather of the parts: the fewest bytes that an all_reduce can send.
  const Index part = 2 * static_cast<Index>(inout.bytes()) / size();
  const Call call{"all_reduce", label, inout.length(), part * peers_within_, part * peers_between_, when};
  return begin(&stream, call, [&]() -> Started { return size() == 1 ? nullptr : do_all_reduce(stream, inout, reduce, when); });
}

Work Communicator::all_gather(Stream& stream, Label label, const Tensor& part, const Tensor& whole, When when) {
  check_parts("all_gather", stream, part, whole);
  const auto bytes = static_cast<Index>(part.bytes());
  const Call call{"all_gather", label, whole.length(), bytes * peers_within_, bytes * peers_between_, when};
  return begin(&stream, call, [&]() -> Started {
    if (size() > 1) return do_all_gather(stream, part, whole, when);
    copy_values(stream, part, whole);
    return nullptr;
  });
}

Work Communicator::reduce_scatter(Stream& stream, Label label, const Tensor& whole, const Tensor& part, When when) {
  check_parts("reduce_scatter", stream, part, whole);
  check(whole.dtype() == DType::f32, "reduce_scatter on ", name(), " reduces f32, got ", name_of(whole.dtype()));
  const auto bytes = static_cast<Index>(part.bytes());
  const Call call{"reduce_scatter", label, whole.length(), bytes * peers_within_, bytes * peers_between_, when};
  return begin(&stream, call, [&]() -> Started {
    if (size() > 1) return do_reduce_scatter(stream, whole, part, when);
    copy_values(stream, whole, part);
    return nullptr;
  });
}

Work Communicator::all_to_all(Stream& stream, Label label, std::span<const AllToAllPart> parts, std::span<const RowRun> send,
                              std::span<const RowRun> receive, When when) {
  check(!parts.empty(), "all_to_all on ", name(), " needs at least one tensor");
  const auto total = [](std::span<const RowRun> runs) {
    return std::accumulate(runs.begin(), runs.end(), Index{0}, [](Index sum, const RowRun& run) { return sum + run.rows; });
  };
  Index width = 0;  // bytes per row, summed over the tensors
  for (const auto& [in, out] : parts) {
    check_tensor("all_to_all", "in", stream, in);
    check_tensor("all_to_all", "out", stream, out);
    check(in.dtype() == out.dtype(), "all_to_all on ", name(), " needs in and out of one dtype, got ", name_of(in.dtype()), " and ",
          name_of(out.dtype()));
    check(row_elements(in) == row_elements(out), "all_to_all on ", name(), " needs rows of one width, got ", in.shape(), " and ",
          out.shape());
    check(!overlap(in, out), "all_to_all on ", name(), " needs in and out that do not overlap");
    check_runs(in, send, "send to");
    check_runs(out, receive, "receive from");
    width += row_bytes(in);
  }
  check(total(receive) <= parts.front().out.length(), "all_to_all on ", name(), " is to receive ", total(receive),
        " rows into a tensor of ", parts.front().out.length(), ": runs overlap");
  const auto own = local_runs(send, receive, rank());
  const std::vector<RowRun>& leaving = own.first;
  const std::vector<RowRun>& arriving = own.second;
  check(std::ranges::equal(leaving, arriving, {}, &RowRun::rows, &RowRun::rows), "all_to_all on ", name(), ": rank ", rank(),
        " sends itself ", total(leaving), " rows in ", leaving.size(), " runs but expects ", total(arriving), " in ", arriving.size(),
        ", or runs of other lengths");
  std::vector<PeerBytes> bytes(static_cast<std::size_t>(size()));
  for (const RowRun& run : send) bytes[static_cast<std::size_t>(run.peer)].sent += run.rows * width;
  for (const RowRun& run : receive) bytes[static_cast<std::size_t>(run.peer)].received += run.rows * width;
  for (int peer = 0; peer < size(); ++peer) bytes[static_cast<std::size_t>(peer)].peer = peer;
  std::erase_if(bytes, [](const PeerBytes& each) { return each.sent == 0 && each.received == 0; });
  Call call{"all_to_all", label, std::max(total(send), total(receive)), 0, 0, when};
  count_bytes(call, bytes);
  return begin(&stream, call, [&]() -> Started {
    if (size() > 1) return do_all_to_all(stream, parts, send, receive, when);
    for (const auto& [in, out] : parts) {
      for (std::size_t i = 0; i < leaving.size(); ++i) {
        copy_values(stream, in.row_range(leaving[i].first, leaving[i].rows), out.row_range(arriving[i].first, arriving[i].rows));
      }
    }
    return nullptr;
  });
}

Work Communicator::all_to_all(Stream& stream, Label label, const Tensor& in, std::span<const Index> send, const Tensor& out,
                              std::span<const Index> receive, When when) {
  const auto runs = [&](std::span<const Index> counts, const Tensor& tensor, std::string_view which) {
    check(counts.size() == members_.nodes.size(), "all_to_all on ", name(), " needs ", size(), " counts to ", which, ", got ",
          counts.size());
    std::vector<RowRun> result;
    Index first = 0;
    for (const Index count : counts) {
      check(count >= 0, "all_to_all on ", name(), " cannot ", which, " ", count, " rows");
      result.push_back({static_cast<int>(result.size()), first, count});
      first += count;
    }
    check(!tensor.defined() || first == tensor.length(), "all_to_all on ", name(), " is to ", which, " ", first,
          " rows, but its tensor has ", tensor.defined() ? tensor.length() : 0);
    return result;
  };
  const auto sent = runs(send, in, "send");
  const auto received = runs(receive, out, "receive");
  const AllToAllPart part{in, out};
  return all_to_all(stream, label, {&part, 1}, sent, received, when);
}

Work Communicator::broadcast(Stream& stream, Label label, const Tensor& inout, int root) {
  check_tensor("broadcast", "inout", stream, inout);
  check_rank("broadcast", "root", root);
  const Index bytes = root == rank() ? static_cast<Index>(inout.bytes()) : 0;
  const Call call{"broadcast", label, inout.length(), bytes * peers_within_, bytes * peers_between_, When::overlapped};
  return begin(&stream, call, [&]() -> Started { return size() == 1 ? nullptr : do_broadcast(stream, inout, root); });
}

Work Communicator::send_receive(Stream& stream, Label label, const Tensor& out, int to, const Tensor& in, int from) {
  check_tensor("send_receive", "out", stream, out);
  check_tensor("send_receive", "in", stream, in);
  check_rank("send_receive", "to", to);
  check_rank("send_receive", "from", from);
  check(out.dtype() == in.dtype(), "send_receive on ", name(), " needs out and in of one dtype, got ", name_of(out.dtype()), " and ",
        name_of(in.dtype()));
  check(row_elements(out) == row_elements(in), "send_receive on ", name(), " needs rows of one width, got ", out.shape(), " and ",
        in.shape());
  check((to == rank()) == (from == rank()), "send_receive on ", name(), ": rank ", rank(), " sends to ", to, " and receives from ", from,
        "; a rank that sends to itself receives from itself");
  check(to != rank() || out.length() == in.length(), "send_receive on ", name(), ": rank ", rank(), " sends itself ", out.length(),
        " rows but expects ", in.length());
  check(!overlap(out, in), "send_receive on ", name(), " needs out and in that do not overlap");
  Call call{"send_receive", label, std::max(out.length(), in.length()), 0, 0, When::overlapped};
  const auto sent = static_cast<Index>(out.bytes());
  const auto received = static_cast<Index>(in.bytes());
  std::vector<PeerBytes> bytes;
  if (to == from) {
    bytes = {{to, sent, received}};
  } else {
    bytes = {{to, sent, 0}, {from, 0, received}};
    if (from < to) std::swap(bytes[0], bytes[1]);
  }
  count_bytes(call, bytes);
  return begin(&stream, call, [&]() -> Started {
    if (size() > 1) return do_send_receive(stream, out, to, in, from);
    copy_values(stream, out, in);
    return nullptr;
  });
}

void Communicator::barrier(Label label) {
  const Call call{"barrier", label, 0, 0, 0, When::now};
  const Work completed = begin(nullptr, call, [&]() -> Started {
    if (size() > 1) do_barrier();
    return nullptr;
  });
}

}  // namespace yard
