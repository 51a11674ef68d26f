#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/profiler.h"
#include "core/tensor/tensor.h"

namespace yard {

/// What a collective is for: {"dispatch", 3} is reported as layer.3.dispatch.
struct Label {
  std::string_view phase;  // a literal: records keep the view
  int layer = -1;
  std::string text() const;
};

/// started: posted, and this rank computes on; waiting: this rank does nothing else; abandoned: an error came first.
enum class CollectiveState : std::uint8_t { started, waiting, done, abandoned };
std::string_view name_of(CollectiveState state);

/// One collective of this process.
struct FlightRecord {
  std::uint64_t id = 0;        // counts the collectives of this process
  int channel = 0;             // the communicator, as `open` numbered it
  std::uint64_t sequence = 0;  // counts the collectives of this communicator, from 1: equal on all of its ranks
  std::string_view op;         // "all_to_all"
  Label label;
  Index rows = 0;   // of the larger tensor
  Index bytes = 0;  // that leave this rank
  CollectiveState state = CollectiveState::started;
  Clock::time_point started, waiting, ended;
};

/// The last collectives of this process, for whoever must say later what it was doing: a ring, and what has not ended however old it is.
/// Safe to use from several threads.
class FlightRecorder {
 public:
  explicit FlightRecorder(std::size_t capacity = 1024);
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  /// Makes a communicator known; `members` are world ranks. The second of one name is kept as "name#2", and so on.
  int open(const std::string& name, std::span<const int> members);
  /// A collective begins; returns its id.
  std::uint64_t start(int channel, std::string_view op, Label label, Index rows, Index bytes, CollectiveState state);
  /// It goes on to another state; waiting and done note the time, and nothing follows done or abandoned.
  void change(std::uint64_t id, CollectiveState state);

  struct Channel {
    std::string name;
    std::vector<int> members;
    std::uint64_t sequence = 0;  // of the last collective that this rank has entered
  };
  std::vector<Channel> channels() const;
  /// Oldest first.
  std::vector<FlightRecord> records() const;
  /// The collective that this process waits in, if any: of several, the one it has waited in longest.
  std::optional<FlightRecord> waiting() const;

 private:
  FlightRecord* find(std::uint64_t id);

  mutable std::mutex mutex_;
  std::vector<FlightRecord> ring_;       // record i is at i % capacity
  std::vector<FlightRecord> overtaken_;  // not ended when the ring came round
  std::vector<Channel> channels_;
  std::uint64_t next_ = 0;
};

}  // namespace yard
