#include "comm/local.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <iterator>
#include <map>
#include <numeric>
#include <thread>

namespace yard {
namespace {

/// One rank's arguments of a collective. Inputs are copied, so that a rank need not wait until its peers have read them.
struct Contribution {
  std::string_view op;
  std::string shared;  // arguments that must be equal on every rank, as text
  std::vector<std::byte> values;
  std::vector<Index> counts;  // send_receive: the receiver and the rows; split: color and key
  std::vector<RowRun> runs;   // all_to_all: the runs that are sent
  bool arrived = false;
};

struct Group;

/// One collective of one group.
struct Rendezvous {
  explicit Rendezvous(std::size_t ranks) : from(ranks) {}
  std::vector<Contribution> from;
  std::size_t arrived = 0;
  std::map<Index, std::shared_ptr<Group>> groups;  // split: by color
};

/// The threads of one world; one mutex guards everything below.
struct World {
  explicit World(int ranks) : ended(static_cast<std::size_t>(ranks), false) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr error;  // the first
  std::string reason;
  std::vector<bool> ended;  // ranks whose body has returned

  /// Needs the lock.
  void fail_all(const std::exception_ptr& first, const std::string& why) {
    if (!error) {
      error = first;
      reason = why;
    }
    changed.notify_all();
  }
};

/// The ranks of one communicator, and the collectives that some of its ranks have not posted yet.
struct Group {
  std::shared_ptr<World> world;
  std::vector<int> world_ranks;
  std::map<std::uint64_t, std::shared_ptr<Rendezvous>> pending;
};

/// Makes every rank of the world throw, this rank immediately. The caller holds the lock.
[[noreturn]] void fail_all_and_throw(World& world, const std::string& sentence) {
  const auto error = std::make_exception_ptr(Error(sentence));
  world.fail_all(error, sentence);
  std::rethrow_exception(error);
}

/// Blocks until every rank of the group has posted the collective.
void wait_for_all(const Group& group, const Rendezvous& rendezvous, std::string_view op, const std::string& name) {
  World& world = *group.world;
  std::unique_lock lock(world.mutex);
  for (;;) {
    if (rendezvous.arrived == rendezvous.from.size()) return;
    if (world.error) fail("another rank failed: ", world.reason);
    for (std::size_t rank = 0; rank < rendezvous.from.size(); ++rank) {
      if (!rendezvous.from[rank].arrived && world.ended[static_cast<std::size_t>(group.world_ranks[rank])]) {
        fail_all_and_throw(
            world, detail::sentence("rank ", rank, " of ", name, " ended without entering ", op, ", in which other ranks wait for it"));
      }
    }
    world.changed.wait(lock);
  }
}

/// A posted collective; when all ranks have posted it, `finish` reads their contributions.
class LocalTransfer final : public Transfer {
 public:
  using Finish = std::function<void(const Rendezvous&)>;
  LocalTransfer(std::shared_ptr<Group> group, std::shared_ptr<Rendezvous> rendezvous, std::string_view op, std::string name, Finish finish)
      : group_(std::move(group)), rendezvous_(std::move(rendezvous)), op_(op), name_(std::move(name)), finish_(std::move(finish)) {}
  void wait(Stream&) override {
    wait_for_all(*group_, *rendezvous_, op_, name_);
    completed_ = Clock::now();
    finish_(*rendezvous_);
  }
  bool done() override {
    const std::lock_guard lock(group_->world->mutex);
    return rendezvous_->arrived == rendezvous_->from.size() || group_->world->error;
  }
  std::optional<Clock::time_point> completed() override {
    if (completed_) return completed_;
    const std::lock_guard lock(group_->world->mutex);
    if (rendezvous_->arrived == rendezvous_->from.size()) completed_ = Clock::now();
    return completed_;
  }

 private:
  std::shared_ptr<Group> group_;
  std::shared_ptr<Rendezvous> rendezvous_;
  std::string_view op_;
  std::string name_;
  Finish finish_;
  std::optional<Clock::time_point> completed_;
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
void combine_all(Reduce reduce, const Rendezvous& rendezvous, std::size_t offset, T* into, std::size_t bytes) {
  if (bytes == 0) return;
  std::memcpy(into, rendezvous.from[0].values.data() + offset, bytes);
  for (std::size_t rank = 1; rank < rendezvous.from.size(); ++rank) {
    combine(reduce, rendezvous.from[rank].values.data() + offset, into, bytes / sizeof(T));
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
  LocalCommunicator(EventLog& own, Membership members, std::shared_ptr<Group> group)
      : Communicator(own, std::move(members)), group_(std::move(group)) {}

 private:
  using Started = std::unique_ptr<Transfer>;

  /// Enters the next collective of this communicator.
  std::shared_ptr<Rendezvous> post(Contribution mine) {
    World& world = *group_->world;
    const std::lock_guard lock(world.mutex);
    if (world.error) fail("another rank failed: ", world.reason);
    auto& entry = group_->pending[sequence_];
    if (!entry) entry = std::make_shared<Rendezvous>(static_cast<std::size_t>(size()));
    auto rendezvous = entry;
    mine.arrived = true;
    for (std::size_t peer = 0; peer < rendezvous->from.size(); ++peer) {
      const Contribution& other = rendezvous->from[peer];
      if (other.arrived && (other.op != mine.op || other.shared != mine.shared)) {
        fail_all_and_throw(world, detail::sentence("the ranks of ", name(), " disagree: rank ", rank(), " called ", mine.op, mine.shared,
                                                   ", rank ", peer, " called ", other.op, other.shared));
      }
    }
    rendezvous->from[static_cast<std::size_t>(rank())] = std::move(mine);
    if (++rendezvous->arrived == rendezvous->from.size()) {
      group_->pending.erase(sequence_);
      world.changed.notify_all();
    }
    ++sequence_;
    return rendezvous;
  }

  Started start(Contribution mine, LocalTransfer::Finish finish) {
    const std::string_view op = mine.op;
    auto rendezvous = post(std::move(mine));
    return std::make_unique<LocalTransfer>(group_, std::move(rendezvous), op, name(), std::move(finish));
  }

  [[noreturn]] void disagree(const std::string& sentence) {
    const std::lock_guard lock(group_->world->mutex);
    fail_all_and_throw(*group_->world, sentence);
  }

  Started do_all_reduce(Stream&, const Tensor& inout, Reduce reduce, When) override {
    const std::string shared = detail::sentence(" (",
                                                reduce == Reduce::sum   ? "sum"
                                                : reduce == Reduce::max ? "max"
                                                                        : "min",
                                                ") of ", inout.shape(), " ", name_of(inout.dtype()));
    return start({"all_reduce", shared, bytes_of(inout), {}, {}}, [inout, reduce](const Rendezvous& rendezvous) {
      if (inout.dtype() == DType::f32) combine_all(reduce, rendezvous, 0, inout.data<float>(), inout.bytes());
      if (inout.dtype() == DType::f64) combine_all(reduce, rendezvous, 0, inout.data<double>(), inout.bytes());
      if (inout.dtype() == DType::i64) combine_all(reduce, rendezvous, 0, inout.data<std::int64_t>(), inout.bytes());
    });
  }

  Started do_all_gather(Stream&, const Tensor& part, const Tensor& whole, When) override {
    const std::string shared = detail::sentence(" of ", part.length(), " ", rows_of(part));
    return start({"all_gather", shared, bytes_of(part), {}, {}}, [whole, bytes = part.bytes()](const Rendezvous& rendezvous) {
      for (std::size_t peer = 0; peer < rendezvous.from.size(); ++peer)
        put(whole, peer * bytes, rendezvous.from[peer].values.data(), bytes);
    });
  }

  Started do_reduce_scatter(Stream&, const Tensor& whole, const Tensor& part, When) override {
    const std::string shared = detail::sentence(" of ", whole.length(), " ", rows_of(whole));
    const auto offset = static_cast<std::size_t>(rank()) * part.bytes();
    return start({"reduce_scatter", shared, bytes_of(whole), {}, {}}, [part, offset](const Rendezvous& rendezvous) {
      combine_all(Reduce::sum, rendezvous, offset, part.data<float>(), part.bytes());
    });
  }

  Started do_all_to_all(Stream&, std::span<const AllToAllPart> parts, std::span<const RowRun> send, std::span<const RowRun> receive,
                        When) override {
    Contribution mine{"all_to_all", " of", {}, {}, {send.begin(), send.end()}};
    std::vector<Tensor> into;
    for (const auto& [in, out] : parts) {
      mine.shared.append(" ").append(rows_of(in));
      for (const RowRun& run : send) {
        const auto values = bytes_of(in.row_range(run.first, run.rows));
        mine.values.insert(mine.values.end(), values.begin(), values.end());
      }
      into.push_back(out);
    }
    return start(std::move(mine), [this, into = std::move(into),
                                   expected = std::vector<RowRun>(receive.begin(), receive.end())](const Rendezvous& rendezvous) {
      for (std::size_t peer = 0; peer < rendezvous.from.size(); ++peer) receive_from(peer, rendezvous.from[peer], into, expected);
    });
  }

  /// Copies what `peer` sends to this rank, run by run.
  void receive_from(std::size_t peer, const Contribution& sender, const std::vector<Tensor>& into, const std::vector<RowRun>& expected) {
    std::vector<RowRun> wanted;
    std::ranges::copy_if(expected, std::back_inserter(wanted),
                         [&](const RowRun& run) { return run.peer == static_cast<int>(peer) && run.rows > 0; });
    std::size_t part_begin = 0;  // bytes of the sender's earlier parts
    for (const Tensor& out : into) {
      const auto width = static_cast<std::size_t>(row_bytes(out));
      std::size_t at = part_begin;
      auto next = wanted.begin();
      for (const RowRun& run : sender.runs) {
        const std::size_t bytes = static_cast<std::size_t>(run.rows) * width;
        if (run.peer == rank() && run.rows > 0) {
          if (next == wanted.end() || next->rows != run.rows) {
            disagree(detail::sentence("the ranks of ", name(), " disagree in all_to_all: rank ", peer, " sends a run of ", run.rows,
                                      " rows to rank ", rank(), ", which expects ", next == wanted.end() ? 0 : next->rows));
          }
          put(out, static_cast<std::size_t>(next->first) * width, sender.values.data() + at, bytes);
          ++next;
        }
        at += bytes;
      }
      if (next != wanted.end()) {
        disagree(detail::sentence("the ranks of ", name(), " disagree in all_to_all: rank ", peer, " sends 0 rows to rank ", rank(),
                                  ", which expects a run of ", next->rows));
      }
      part_begin = at;
    }
  }

  Started do_broadcast(Stream&, const Tensor& inout, int root) override {
    const std::string shared = detail::sentence(" from rank ", root, " of ", inout.shape(), " ", name_of(inout.dtype()));
    Contribution mine{"broadcast", shared, root == rank() ? bytes_of(inout) : std::vector<std::byte>{}, {}, {}};
    return start(std::move(mine), [inout, root](const Rendezvous& rendezvous) {
      put(inout, 0, rendezvous.from[static_cast<std::size_t>(root)].values.data(), inout.bytes());
    });
  }

  Started do_send_receive(Stream&, const Tensor& out, int to, const Tensor& in, int from) override {
    Contribution mine{"send_receive", " of " + rows_of(out), bytes_of(out), {to, out.length()}, {}};
    return start(std::move(mine), [this, in, from](const Rendezvous& rendezvous) {
      const Contribution& sender = rendezvous.from[static_cast<std::size_t>(from)];
      if (sender.counts[0] != rank() || sender.counts[1] != in.length()) {
        disagree(detail::sentence("the ranks of ", name(), " disagree in send_receive: rank ", from, " sends ", sender.counts[1],
                                  " rows to rank ", sender.counts[0], ", but rank ", rank(), " expects ", in.length(), " from it"));
      }
      put(in, 0, sender.values.data(), in.bytes());
    });
  }

  void do_barrier() override { wait_for_all(*group_, *post({"barrier", "", {}, {}, {}}), "barrier", name()); }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    const auto rendezvous = post({"split", "", {}, {color, key}, {}});
    wait_for_all(*group_, *rendezvous, "split", this->name());
    std::vector<std::size_t> chosen;
    for (std::size_t peer = 0; peer < rendezvous->from.size(); ++peer) {
      if (rendezvous->from[peer].counts[0] == color) chosen.push_back(peer);
    }
    std::stable_sort(chosen.begin(), chosen.end(),
                     [&](std::size_t a, std::size_t b) { return rendezvous->from[a].counts[1] < rendezvous->from[b].counts[1]; });
    Membership members{std::move(name), 0, {}, {}};
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] == static_cast<std::size_t>(rank())) members.rank = static_cast<int>(i);
      members.world_ranks.push_back(world_ranks()[chosen[i]]);
      members.nodes.push_back(nodes()[chosen[i]]);
    }
    std::shared_ptr<Group> group;
    {
      const std::lock_guard lock(group_->world->mutex);
      auto& shared = rendezvous->groups[color];
      if (!shared) shared = std::make_shared<Group>(Group{group_->world, members.world_ranks, {}});
      group = shared;
    }
    return std::make_unique<LocalCommunicator>(log(), std::move(members), std::move(group));
  }

  std::shared_ptr<Group> group_;
  std::uint64_t sequence_ = 0;
};

std::shared_ptr<Group> whole_world(int ranks) {
  std::vector<int> all(static_cast<std::size_t>(ranks));
  std::iota(all.begin(), all.end(), 0);
  return std::make_shared<Group>(Group{std::make_shared<World>(ranks), std::move(all), {}});
}

/// The body of one rank's thread. An error makes every rank of the world throw.
void run_rank(const LocalWorld& options, int rank, const std::shared_ptr<Group>& group, const std::function<void(Communicator&)>& body) {
  World& world = *group->world;
  try {
    EventLog own;
    EventLog& log = options.logs.empty() ? own : *options.logs[static_cast<std::size_t>(rank)];
    std::vector<int> nodes = options.nodes.empty() ? std::vector<int>(static_cast<std::size_t>(options.ranks), 0) : options.nodes;
    LocalCommunicator communicator(log, {"world", rank, group->world_ranks, std::move(nodes)}, group);
    body(communicator);
  } catch (const std::exception& error) {
    const std::lock_guard lock(world.mutex);
    world.fail_all(std::current_exception(), error.what());
  } catch (...) {
    const std::lock_guard lock(world.mutex);
    world.fail_all(std::current_exception(), "an exception of another kind than std::exception");
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
  check(options.logs.empty() || options.logs.size() == ranks, "a local world of ", ranks, " ranks needs as many logs, got ",
        options.logs.size());
  const auto group = whole_world(options.ranks);
  {
    std::vector<std::jthread> threads;  // joined at the end of this block
    try {
      for (int rank = 0; rank < options.ranks; ++rank) threads.emplace_back([&, rank] { run_rank(options, rank, group, body); });
    } catch (const std::exception& error) {
      const std::lock_guard lock(group->world->mutex);
      group->world->fail_all(std::current_exception(), error.what());
    }
  }
  if (group->world->error) std::rethrow_exception(group->world->error);
}

void run_local_world(int ranks, const std::function<void(Communicator&)>& body) {
  run_local_world(LocalWorld{.ranks = ranks, .nodes = {}, .logs = {}}, body);
}

std::unique_ptr<Communicator> make_self(EventLog& log, const std::string& name) {
  return std::make_unique<LocalCommunicator>(log, Membership{name, 0, {0}, {0}}, whole_world(1));
}

}  // namespace yard
