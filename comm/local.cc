#include "comm/local.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <numeric>
#include <thread>

namespace yard {
namespace {

/// What one rank brings to a collective. Inputs are copies, so that no rank must wait for others to have read them.
struct Contribution {
  std::string_view op;
  std::string shared;  // what must be the same on every rank, in words
  std::vector<std::byte> values;
  std::vector<Index> counts;  // all_to_all: rows to each rank; send_receive: the receiver and the rows; split: color and key
  bool arrived = false;
};

struct Group;

/// One collective of one group.
struct Meeting {
  explicit Meeting(std::size_t ranks) : from(ranks) {}
  std::vector<Contribution> from;
  std::size_t arrived = 0;
  std::map<Index, std::shared_ptr<Group>> groups;  // split: by color
};

/// The threads of one world: everything below is guarded by one mutex.
struct World {
  explicit World(int ranks) : ended(static_cast<std::size_t>(ranks), false) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr error;  // the first
  std::string reason;
  std::vector<bool> ended;  // ranks whose body has returned

  /// Needs the lock.
  void break_with(const std::exception_ptr& first, const std::string& why) {
    if (!error) {
      error = first;
      reason = why;
    }
    changed.notify_all();
  }
};

/// The ranks of one communicator, and the collectives that not all of them have entered yet.
struct Group {
  std::shared_ptr<World> world;
  std::vector<int> world_ranks;
  std::map<std::uint64_t, std::shared_ptr<Meeting>> meetings;
};

/// Breaks the world and throws. Needs the lock.
[[noreturn]] void break_and_fail(World& world, const std::string& sentence) {
  const auto error = std::make_exception_ptr(Error(sentence));
  world.break_with(error, sentence);
  std::rethrow_exception(error);
}

/// Sleeps until every member has entered the collective.
void meet(const Group& group, const Meeting& meeting, std::string_view op, const std::string& name) {
  World& world = *group.world;
  std::unique_lock lock(world.mutex);
  for (;;) {
    if (meeting.arrived == meeting.from.size()) return;
    if (world.error) fail("another rank failed: ", world.reason);
    for (std::size_t rank = 0; rank < meeting.from.size(); ++rank) {
      if (!meeting.from[rank].arrived && world.ended[static_cast<std::size_t>(group.world_ranks[rank])]) {
        break_and_fail(world,
                       detail::sentence("rank ", rank, " of ", name, " ended without entering ", op, ", in which others wait for it"));
      }
    }
    world.changed.wait(lock);
  }
}

/// A collective of this rank: when all have entered, `finish` reads what they brought.
class LocalTransfer final : public Transfer {
 public:
  using Finish = std::function<void(const Meeting&)>;
  LocalTransfer(std::shared_ptr<Group> group, std::shared_ptr<Meeting> meeting, std::string_view op, std::string name, Finish finish)
      : group_(std::move(group)), meeting_(std::move(meeting)), op_(op), name_(std::move(name)), finish_(std::move(finish)) {}
  void wait(Stream&) override {
    meet(*group_, *meeting_, op_, name_);
    finish_(*meeting_);
  }

 private:
  std::shared_ptr<Group> group_;
  std::shared_ptr<Meeting> meeting_;
  std::string_view op_;
  std::string name_;
  Finish finish_;
};

template <class T>
void combine(Reduce reduce, const std::byte* values, T* into, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, values + i * sizeof(T), sizeof(T));
    into[i] = reduce == Reduce::sum ? into[i] + value : reduce == Reduce::max ? std::max(into[i], value) : std::min(into[i], value);
  }
}

/// into = the reduction, in rank order, of `bytes` from `offset` of what every rank brought.
template <class T>
void combine_all(Reduce reduce, const Meeting& meeting, std::size_t offset, T* into, std::size_t bytes) {
  if (bytes == 0) return;
  std::memcpy(into, meeting.from[0].values.data() + offset, bytes);
  for (std::size_t rank = 1; rank < meeting.from.size(); ++rank) {
    combine(reduce, meeting.from[rank].values.data() + offset, into, bytes / sizeof(T));
  }
}

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  const auto* first = static_cast<const std::byte*>(tensor.raw());
  return tensor.bytes() == 0 ? std::vector<std::byte>{} : std::vector<std::byte>(first, first + tensor.bytes());
}

void put(const Tensor& into, std::size_t offset, const std::byte* values, std::size_t bytes) {
  if (bytes > 0) std::memcpy(static_cast<std::byte*>(into.raw()) + offset, values, bytes);
}

std::string rows_of(const Tensor& tensor) { return detail::sentence("", name_of(tensor.dtype()), " rows of ", row_elements(tensor)); }

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(FlightRecorder& own, Membership members, std::shared_ptr<Group> group)
      : Communicator(own, std::move(members)), group_(std::move(group)) {}

 private:
  using Started = std::unique_ptr<Transfer>;

  /// Enters the next collective of this communicator.
  std::shared_ptr<Meeting> post(Contribution mine) {
    World& world = *group_->world;
    const std::lock_guard lock(world.mutex);
    if (world.error) fail("another rank failed: ", world.reason);
    auto& entry = group_->meetings[sequence_];
    if (!entry) entry = std::make_shared<Meeting>(static_cast<std::size_t>(size()));
    auto meeting = entry;
    mine.arrived = true;
    for (std::size_t peer = 0; peer < meeting->from.size(); ++peer) {
      const Contribution& other = meeting->from[peer];
      if (other.arrived && (other.op != mine.op || other.shared != mine.shared)) {
        break_and_fail(world, detail::sentence("the ranks of ", name(), " disagree: rank ", rank(), " called ", mine.op, mine.shared,
                                               ", rank ", peer, " called ", other.op, other.shared));
      }
    }
    meeting->from[static_cast<std::size_t>(rank())] = std::move(mine);
    if (++meeting->arrived == meeting->from.size()) {
      group_->meetings.erase(sequence_);
      world.changed.notify_all();
    }
    ++sequence_;
    return meeting;
  }

  Started start(Contribution mine, LocalTransfer::Finish finish) {
    const std::string_view op = mine.op;
    auto meeting = post(std::move(mine));
    return std::make_unique<LocalTransfer>(group_, std::move(meeting), op, name(), std::move(finish));
  }

  [[noreturn]] void disagree(const std::string& sentence) {
    const std::lock_guard lock(group_->world->mutex);
    break_and_fail(*group_->world, sentence);
  }

  Started do_all_reduce(Stream&, const Tensor& inout, Reduce reduce, When) override {
    const std::string shared = detail::sentence(" (",
                                                reduce == Reduce::sum   ? "sum"
                                                : reduce == Reduce::max ? "max"
                                                                        : "min",
                                                ") of ", inout.shape(), " ", name_of(inout.dtype()));
    return start({"all_reduce", shared, bytes_of(inout), {}}, [inout, reduce](const Meeting& meeting) {
      if (inout.dtype() == DType::f32) combine_all(reduce, meeting, 0, inout.data<float>(), inout.bytes());
      if (inout.dtype() == DType::f64) combine_all(reduce, meeting, 0, inout.data<double>(), inout.bytes());
      if (inout.dtype() == DType::i64) combine_all(reduce, meeting, 0, inout.data<std::int64_t>(), inout.bytes());
    });
  }

  Started do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When) override {
    const std::string shared = detail::sentence(" of ", part.length(), " ", rows_of(part));
    return start({"all_gather", shared, bytes_of(part), {}}, [whole, bytes = part.bytes()](const Meeting& meeting) {
      for (std::size_t peer = 0; peer < meeting.from.size(); ++peer) put(whole, peer * bytes, meeting.from[peer].values.data(), bytes);
    });
  }

  Started do_reduce_scatter(Stream&, const Tensor& whole, const Tensor& part, When) override {
    const std::string shared = detail::sentence(" of ", whole.length(), " ", rows_of(whole));
    const auto offset = static_cast<std::size_t>(rank()) * part.bytes();
    return start({"reduce_scatter", shared, bytes_of(whole), {}},
                 [part, offset](const Meeting& meeting) { combine_all(Reduce::sum, meeting, offset, part.data<float>(), part.bytes()); });
  }

  Started do_all_to_all(Stream&, const Tensor& in, std::span<const Index> send, const Tensor& out, std::span<const Index> receive,
                        When) override {
    Contribution mine{"all_to_all", " of " + rows_of(in), bytes_of(in), {send.begin(), send.end()}};
    return start(std::move(mine), [this, out, expected = std::vector<Index>(receive.begin(), receive.end())](const Meeting& meeting) {
      const auto width = static_cast<std::size_t>(row_bytes(out));
      std::size_t into = 0;
      for (std::size_t peer = 0; peer < meeting.from.size(); ++peer) {
        const Contribution& sender = meeting.from[peer];
        const Index rows = sender.counts[static_cast<std::size_t>(rank())];
        if (rows != expected[peer]) {
          disagree(detail::sentence("the ranks of ", name(), " disagree in all_to_all: rank ", peer, " sends ", rows, " rows to rank ",
                                    rank(), ", which expects ", expected[peer]));
        }
        const Index before = std::accumulate(sender.counts.begin(), sender.counts.begin() + rank(), Index{0});
        put(out, into, sender.values.data() + static_cast<std::size_t>(before) * width, static_cast<std::size_t>(rows) * width);
        into += static_cast<std::size_t>(rows) * width;
      }
    });
  }

  Started do_broadcast(Stream&, const Tensor& inout, int root) override {
    const std::string shared = detail::sentence(" from rank ", root, " of ", inout.shape(), " ", name_of(inout.dtype()));
    Contribution mine{"broadcast", shared, root == rank() ? bytes_of(inout) : std::vector<std::byte>{}, {}};
    return start(std::move(mine), [inout, root](const Meeting& meeting) {
      put(inout, 0, meeting.from[static_cast<std::size_t>(root)].values.data(), inout.bytes());
    });
  }

  Started do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) override {
    Contribution mine{"send_receive", " of " + rows_of(out), bytes_of(out), {to, out.length()}};
    return start(std::move(mine), [this, in, from](const Meeting& meeting) {
      const Contribution& sender = meeting.from[static_cast<std::size_t>(from)];
      if (sender.counts[0] != rank() || sender.counts[1] != in.length()) {
        disagree(detail::sentence("the ranks of ", name(), " disagree in send_receive: rank ", from, " sends ", sender.counts[1],
                                  " rows to rank ", sender.counts[0], ", but rank ", rank(), " expects ", in.length(), " from it"));
      }
      put(in, 0, sender.values.data(), in.bytes());
    });
  }

  void do_barrier() override { meet(*group_, *post({"barrier", "", {}, {}}), "barrier", name()); }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    const auto meeting = post({"split", "", {}, {color, key}});
    meet(*group_, *meeting, "split", this->name());
    std::vector<std::size_t> chosen;
    for (std::size_t peer = 0; peer < meeting->from.size(); ++peer) {
      if (meeting->from[peer].counts[0] == color) chosen.push_back(peer);
    }
    std::stable_sort(chosen.begin(), chosen.end(),
                     [&](std::size_t a, std::size_t b) { return meeting->from[a].counts[1] < meeting->from[b].counts[1]; });
    Membership members{std::move(name), 0, {}, {}};
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] == static_cast<std::size_t>(rank())) members.rank = static_cast<int>(i);
      members.world_ranks.push_back(world_ranks()[chosen[i]]);
      members.nodes.push_back(nodes()[chosen[i]]);
    }
    std::shared_ptr<Group> group;
    {
      const std::lock_guard lock(group_->world->mutex);
      auto& shared = meeting->groups[color];
      if (!shared) shared = std::make_shared<Group>(Group{group_->world, members.world_ranks, {}});
      group = shared;
    }
    return std::make_unique<LocalCommunicator>(recorder(), std::move(members), std::move(group));
  }

  std::shared_ptr<Group> group_;
  std::uint64_t sequence_ = 0;
};

std::shared_ptr<Group> whole_world(int ranks) {
  std::vector<int> all(static_cast<std::size_t>(ranks));
  std::iota(all.begin(), all.end(), 0);
  return std::make_shared<Group>(Group{std::make_shared<World>(ranks), std::move(all), {}});
}

/// What a thread of the world does: an error breaks the world, a return leaves it.
void run_rank(const LocalWorld& options, int rank, const std::shared_ptr<Group>& group, const std::function<void(Communicator&)>& body) {
  World& world = *group->world;
  try {
    FlightRecorder own;
    FlightRecorder& recorder = options.recorders.empty() ? own : *options.recorders[static_cast<std::size_t>(rank)];
    std::vector<int> nodes = options.nodes.empty() ? std::vector<int>(static_cast<std::size_t>(options.ranks), 0) : options.nodes;
    LocalCommunicator communicator(recorder, {"world", rank, group->world_ranks, std::move(nodes)}, group);
    body(communicator);
  } catch (const std::exception& error) {
    const std::lock_guard lock(world.mutex);
    world.break_with(std::current_exception(), error.what());
  } catch (...) {
    const std::lock_guard lock(world.mutex);
    world.break_with(std::current_exception(), "an exception of another kind than std::exception");
  }
  const std::lock_guard lock(world.mutex);
  world.ended[static_cast<std::size_t>(rank)] = true;
  world.changed.notify_all();
}

}  // namespace

void run_local_world(const LocalWorld& options, const std::function<void(Communicator&)>& body) {
  const auto ranks = static_cast<std::size_t>(options.ranks);
  check(options.ranks > 0, "a local world has at least one rank, got ", options.ranks);
  check(options.nodes.empty() || options.nodes.size() == ranks, "a local world of ", ranks, " ranks needs as many nodes, got ",
        options.nodes.size());
  check(options.recorders.empty() || options.recorders.size() == ranks, "a local world of ", ranks, " ranks needs as many recorders, got ",
        options.recorders.size());
  const auto group = whole_world(options.ranks);
  {
    std::vector<std::jthread> threads;  // joined at the end of this block
    try {
      for (int rank = 0; rank < options.ranks; ++rank) threads.emplace_back([&, rank] { run_rank(options, rank, group, body); });
    } catch (const std::exception& error) {
      const std::lock_guard lock(group->world->mutex);
      group->world->break_with(std::current_exception(), error.what());
    }
  }
  if (group->world->error) std::rethrow_exception(group->world->error);
}

void run_local_world(int ranks, const std::function<void(Communicator&)>& body) {
  run_local_world(LocalWorld{.ranks = ranks, .nodes = {}, .recorders = {}}, body);
}

std::unique_ptr<Communicator> make_self(FlightRecorder& recorder) {
  return std::make_unique<LocalCommunicator>(recorder, Membership{"world", 0, {0}, {0}}, whole_world(1));
}

}  // namespace yard
