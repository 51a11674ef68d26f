#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/device/ranges.h"
#include "core/registered_name.h"

namespace yard {

using Clock = std::chrono::steady_clock;
inline double seconds_between(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

/// Host time by phase of a step, always recorded; collectives are in the event log (comm/event_log.h). One per rank; used by the rank's own
/// thread only.
class Profiler {
 public:
  using Phases = std::map<std::string, double, std::less<>>;  // seconds by name

  void add_phase(std::string_view name, double seconds) {
    auto found = phases_.find(name);
    if (found == phases_.end()) found = phases_.emplace(name, 0.0).first;
    found->second += seconds;
  }
  /// Everything since the last call.
  Phases take() { return std::exchange(phases_, Phases{}); }
  /// From now on spans are ranges on the device's timeline too.
  void mark_ranges(std::shared_ptr<Ranges> ranges) { ranges_ = std::move(ranges); }
  Ranges* ranges() const noexcept { return ranges_.get(); }

 private:
  Phases phases_;
  std::shared_ptr<Ranges> ranges_;
};

/// Adds the time of its scope to a phase. Phases without a registered name (YARD_PHASE) are reported under "other".
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
