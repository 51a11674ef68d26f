#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/device/ranges.h"

namespace yard {

using Clock = std::chrono::steady_clock;
inline double seconds_between(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

/// What one kind of collective cost since the last `take`, on this rank.
struct TransferTotals {
  std::int64_t calls = 0;
  std::int64_t bytes_within = 0;   // sent to ranks of the same node, this rank excepted
  std::int64_t bytes_between = 0;  // sent to ranks of other nodes
  double seconds = 0;              // from the call to the moment its end was seen
  double exposed_seconds = 0;      // of these, seconds in which this rank did nothing else
};

/// Where the time of a step goes, always recorded. Phases are names such as "attention.forward", whose host time adds up; collectives are
/// reported by the communicator's front door. One per rank; used by the rank's own thread only.
class Profiler {
 public:
  struct Totals {
    std::map<std::string, double, std::less<>> phases;             // seconds
    std::map<std::string, TransferTotals, std::less<>> transfers;  // by label, "layer.3.dispatch"
  };

  void add_phase(std::string_view name, double seconds) {
    auto found = totals_.phases.find(name);
    if (found == totals_.phases.end()) found = totals_.phases.emplace(name, 0.0).first;
    found->second += seconds;
  }
  TransferTotals& transfer(std::string_view label) {
    auto found = totals_.transfers.find(label);
    if (found == totals_.transfers.end()) found = totals_.transfers.emplace(label, TransferTotals{}).first;
    return found->second;
  }
  /// Everything since the last call.
  Totals take() { return std::exchange(totals_, Totals{}); }
  /// From now on spans are ranges on the device's timeline too.
  void mark_ranges(std::shared_ptr<Ranges> ranges) { ranges_ = std::move(ranges); }
  Ranges* ranges() const noexcept { return ranges_.get(); }

 private:
  Totals totals_;
  std::shared_ptr<Ranges> ranges_;
};

/// Adds the time of its scope to a phase.
class Span {
 public:
  Span(Profiler& profiler, std::string_view phase) : profiler_(profiler), phase_(phase), start_(Clock::now()) {
    if (Ranges* ranges = profiler.ranges()) ranges->push(std::string(phase).c_str());
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  ~Span() {
    if (Ranges* ranges = profiler_.ranges()) ranges->pop();
    profiler_.add_phase(phase_, seconds_between(start_, Clock::now()));
  }

 private:
  Profiler& profiler_;
  std::string_view phase_;
  Clock::time_point start_;
};

}  // namespace yard
