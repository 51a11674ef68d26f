#include "comm/communicator.h"

#include <array>
#include <cstring>
#include <numeric>

namespace yard {
namespace {

/// The label's text without an allocation.
class LabelText {
 public:
  explicit LabelText(Label label) {
    if (label.layer >= 0) {
      append("layer.");
      append(std::to_string(label.layer));
      append(".");
    }
    append(label.phase);
  }
  operator std::string_view() const { return {text_.data(), length_}; }  // NOLINT(google-explicit-constructor)

 private:
  void append(std::string_view part) {
    const std::size_t taken = std::min(part.size(), text_.size() - length_);
    std::memcpy(text_.data() + length_, part.data(), taken);
    length_ += taken;
  }
  std::array<char, 128> text_;
  std::size_t length_ = 0;
};

/// What the front door gives out: waiting is timed and closes the record.
class RecordedWork final : public Work::State {
 public:
  RecordedWork(FlightRecorder& recorder, Profiler& profiler, std::uint64_t id, Label label, Clock::time_point started,
               std::unique_ptr<Transfer> transfer)
      : recorder_(recorder), profiler_(profiler), id_(id), label_(label), started_(started), transfer_(std::move(transfer)) {}

  void wait(Stream& stream) override {
    const auto from = Clock::now();
    recorder_.change(id_, CollectiveState::waiting);
    try {
      transfer_->wait(stream);
    } catch (...) {
      abandon();
      throw;
    }
    const auto to = Clock::now();
    recorder_.change(id_, CollectiveState::done);
    TransferTotals& totals = profiler_.transfer(LabelText(label_));
    totals.seconds += seconds_between(started_, transfer_->ended().value_or(to));
    totals.exposed_seconds += seconds_between(from, to);
  }
  void abandon() noexcept override {
    recorder_.change(id_, CollectiveState::abandoned);
    transfer_->abandon();
  }

 private:
  FlightRecorder& recorder_;
  Profiler& profiler_;
  std::uint64_t id_;
  Label label_;
  Clock::time_point started_;
  std::unique_ptr<Transfer> transfer_;
};

const std::byte* first_byte(const Tensor& tensor) { return static_cast<const std::byte*>(tensor.raw()); }

bool overlap(const Tensor& a, const Tensor& b) {
  return a.bytes() > 0 && b.bytes() > 0 && first_byte(a) < first_byte(b) + b.bytes() && first_byte(b) < first_byte(a) + a.bytes();
}

/// A rank alone moves its rows itself, in the order of its stream.
void copy_values(Stream& stream, const Tensor& from, const Tensor& to) {
  if (from.raw() != to.raw()) stream.copy(to.raw(), from.raw(), from.bytes());
}

}  // namespace

Index row_elements(const Tensor& tensor) {
  Index result = 1;
  for (int axis = 1; axis < tensor.shape().rank(); ++axis) result *= tensor.shape()[axis];
  return result;
}

Index row_bytes(const Tensor& tensor) { return row_elements(tensor) * static_cast<Index>(size_of(tensor.dtype())); }

/// One call as it is recorded: the bytes that leave this rank to other ranks of its node, and to other nodes.
struct Communicator::Call {
  std::string_view op;
  Label label;
  Index rows = 0, bytes_within = 0, bytes_between = 0;
  When when = When::overlapped;
};

Communicator::Communicator(FlightRecorder& recorder, Membership members)
    : recorder_(recorder), members_(std::move(members)), channel_(recorder.open(members_.name, members_.world_ranks)) {
  for (const int node : members_.nodes) ++(node == members_.nodes[static_cast<std::size_t>(rank())] ? peers_within_ : peers_between_);
  --peers_within_;
}

template <class Body>
Work Communicator::begin(Stream* stream, Profiler& profiler, const Call& call, Body&& body) {
  const auto started = Clock::now();
  const auto state = call.when == When::now ? CollectiveState::waiting : CollectiveState::started;
  const std::uint64_t id = recorder_.start(channel_, call.op, call.label, call.rows, call.bytes_within + call.bytes_between, state);
  Started transfer;
  try {
    transfer = body();
  } catch (...) {
    recorder_.change(id, CollectiveState::abandoned);
    throw;
  }
  const double inside = seconds_between(started, Clock::now());
  TransferTotals& totals = profiler.transfer(LabelText(call.label));
  totals.calls += 1;
  totals.bytes_within += call.bytes_within;
  totals.bytes_between += call.bytes_between;
  totals.exposed_seconds += inside;
  if (!transfer) {
    totals.seconds += inside;
    recorder_.change(id, CollectiveState::done);
    return {};
  }
  Work work(*stream, std::make_unique<RecordedWork>(recorder_, profiler, id, call.label, started, std::move(transfer)));
  if (call.when == When::now) work.wait(*stream);
  return work;
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

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  check(color >= 0, "split of ", members_.name, " needs a color that is not negative, got ", color);
  const std::uint64_t id = recorder_.start(channel_, "split", {"split"}, 0, 0, CollectiveState::waiting);
  try {
    auto result = do_split(color, key, std::move(name));
    recorder_.change(id, CollectiveState::done);
    return result;
  } catch (...) {
    recorder_.change(id, CollectiveState::abandoned);
    throw;
  }
}

Work Communicator::all_reduce(Stream& stream, Profiler& profiler, Label label, const Tensor& inout, Reduce reduce, When when) {
  check_tensor("all_reduce", "inout", stream, inout);
  check(inout.dtype() == DType::f32 || inout.dtype() == DType::f64 || inout.dtype() == DType::i64, "all_reduce on ", name(),
        " reduces f32, f64 and i64, got ", name_of(inout.dtype()));
  // A reduce_scatter and an all_gather of the parts: the fewest bytes that an all_reduce can send.
  const Index part = 2 * static_cast<Index>(inout.bytes()) / size();
  const Call call{"all_reduce", label, inout.length(), part * peers_within_, part * peers_between_, when};
  return begin(&stream, profiler, call, [&]() -> Started { return size() == 1 ? nullptr : do_all_reduce(stream, inout, reduce, when); });
}

Work Communicator::all_gather(Stream& stream, Profiler& profiler, Label label, const Tensor& part, const Tensor& whole, When when) {
  check_parts("all_gather", stream, part, whole);
  const auto bytes = static_cast<Index>(part.bytes());
  const Call call{"all_gather", label, whole.length(), bytes * peers_within_, bytes * peers_between_, when};
  return begin(&stream, profiler, call, [&]() -> Started {
    if (size() > 1) return do_all_gather(stream, part, whole, when);
    copy_values(stream, part, whole);
    return nullptr;
  });
}

Work Communicator::reduce_scatter(Stream& stream, Profiler& profiler, Label label, const Tensor& whole, const Tensor& part, When when) {
  check_parts("reduce_scatter", stream, part, whole);
  check(whole.dtype() == DType::f32, "reduce_scatter on ", name(), " reduces f32, got ", name_of(whole.dtype()));
  const auto bytes = static_cast<Index>(part.bytes());
  const Call call{"reduce_scatter", label, whole.length(), bytes * peers_within_, bytes * peers_between_, when};
  return begin(&stream, profiler, call, [&]() -> Started {
    if (size() > 1) return do_reduce_scatter(stream, whole, part, when);
    copy_values(stream, whole, part);
    return nullptr;
  });
}

Work Communicator::all_to_all(Stream& stream, Profiler& profiler, Label label, const Tensor& in, std::span<const Index> send,
                              const Tensor& out, std::span<const Index> receive, When when) {
  check_tensor("all_to_all", "in", stream, in);
  check_tensor("all_to_all", "out", stream, out);
  check(in.dtype() == out.dtype(), "all_to_all on ", name(), " needs in and out of one dtype, got ", name_of(in.dtype()), " and ",
        name_of(out.dtype()));
  check(row_elements(in) == row_elements(out), "all_to_all on ", name(), " needs rows of one width, got ", in.shape(), " and ",
        out.shape());
  const auto check_counts = [&](std::span<const Index> counts, const Tensor& tensor, std::string_view which) {
    check(counts.size() == members_.nodes.size(), "all_to_all on ", name(), " needs ", size(), " counts to ", which, ", got ",
          counts.size());
    for (const Index count : counts) check(count >= 0, "all_to_all on ", name(), " cannot ", which, " ", count, " rows");
    const Index total = std::accumulate(counts.begin(), counts.end(), Index{0});
    check(total == tensor.length(), "all_to_all on ", name(), " is to ", which, " ", total, " rows, but its tensor has ", tensor.length());
  };
  check_counts(send, in, "send");
  check_counts(receive, out, "receive");
  const auto me = static_cast<std::size_t>(rank());
  check(send[me] == receive[me], "all_to_all on ", name(), ": rank ", rank(), " sends itself ", send[me], " rows but expects ",
        receive[me]);
  check(!overlap(in, out), "all_to_all on ", name(), " needs in and out that do not overlap");
  const Index width = row_bytes(in);
  Call call{"all_to_all", label, std::max(in.length(), out.length()), 0, 0, when};
  for (std::size_t peer = 0; peer < send.size(); ++peer) {
    if (peer != me) (members_.nodes[peer] == members_.nodes[me] ? call.bytes_within : call.bytes_between) += send[peer] * width;
  }
  return begin(&stream, profiler, call, [&]() -> Started {
    if (size() > 1) return do_all_to_all(stream, in, send, out, receive, when);
    copy_values(stream, in, out);
    return nullptr;
  });
}

Work Communicator::broadcast(Stream& stream, Profiler& profiler, Label label, const Tensor& inout, int root) {
  check_tensor("broadcast", "inout", stream, inout);
  check_rank("broadcast", "root", root);
  const Index bytes = root == rank() ? static_cast<Index>(inout.bytes()) : 0;
  const Call call{"broadcast", label, inout.length(), bytes * peers_within_, bytes * peers_between_, When::overlapped};
  return begin(&stream, profiler, call, [&]() -> Started { return size() == 1 ? nullptr : do_broadcast(stream, inout, root); });
}

Work Communicator::send_receive(Stream& stream, Profiler& profiler, Label label, const Tensor& out, int to, const Tensor& in, int from) {
  check_tensor("send_receive", "out", stream, out);
  check_tensor("send_receive", "in", stream, in);
  check_rank("send_receive", "to", to);
  check_rank("send_receive", "from", from);
  check(out.dtype() == in.dtype(), "send_receive on ", name(), " needs out and in of one dtype, got ", name_of(out.dtype()), " and ",
        name_of(in.dtype()));
  check(row_elements(out) == row_elements(in), "send_receive on ", name(), " needs rows of one width, got ", out.shape(), " and ",
        in.shape());
  check((to == rank()) == (from == rank()), "send_receive on ", name(), ": rank ", rank(), " sends to ", to, " and receives from ", from,
        "; who sends to itself receives from itself");
  check(to != rank() || out.length() == in.length(), "send_receive on ", name(), ": rank ", rank(), " sends itself ", out.length(),
        " rows but expects ", in.length());
  check(!overlap(out, in), "send_receive on ", name(), " needs out and in that do not overlap");
  Call call{"send_receive", label, std::max(out.length(), in.length()), 0, 0, When::overlapped};
  const auto& nodes = members_.nodes;
  if (to != rank()) {
    const bool within = nodes[static_cast<std::size_t>(to)] == nodes[static_cast<std::size_t>(rank())];
    (within ? call.bytes_within : call.bytes_between) = static_cast<Index>(out.bytes());
  }
  return begin(&stream, profiler, call, [&]() -> Started {
    if (size() > 1) return do_send_receive(stream, out, to, in, from);
    copy_values(stream, out, in);
    return nullptr;
  });
}

void Communicator::barrier(Profiler& profiler, Label label) {
  const Call call{"barrier", label, 0, 0, 0, When::now};
  const Work nothing = begin(nullptr, profiler, call, [&]() -> Started {
    if (size() > 1) do_barrier();
    return nullptr;
  });
}

}  // namespace yard
