#include "comm/flight_recorder.h"

#include <algorithm>

namespace yard {
namespace {

bool ended(const FlightRecord& record) { return record.state == CollectiveState::done || record.state == CollectiveState::abandoned; }

}  // namespace

std::string Label::text() const {
  std::string result = layer < 0 ? "" : "layer." + std::to_string(layer) + ".";
  return result.append(phase);
}

std::string_view name_of(CollectiveState state) {
  switch (state) {
    case CollectiveState::started:
      return "started";
    case CollectiveState::waiting:
      return "waiting";
    case CollectiveState::done:
      return "done";
    default:
      return "abandoned";
  }
}

FlightRecorder::FlightRecorder(std::size_t capacity) : ring_(capacity) {
  check(capacity > 0, "a flight recorder keeps at least one record, got a capacity of ", capacity);
}

int FlightRecorder::open(const std::string& name, std::span<const int> members) {
  const std::lock_guard lock(mutex_);
  const auto taken = [&](const std::string& candidate) {
    return std::any_of(channels_.begin(), channels_.end(), [&](const Channel& channel) { return channel.name == candidate; });
  };
  std::string unique = name;
  for (int count = 2; taken(unique); ++count) unique = name + "#" + std::to_string(count);
  channels_.push_back({unique, {members.begin(), members.end()}, 0});
  return static_cast<int>(channels_.size()) - 1;
}

std::uint64_t FlightRecorder::start(int channel, std::string_view op, Label label, Index rows, Index bytes, CollectiveState state) {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  FlightRecord& slot = ring_[next_ % ring_.size()];
  if (next_ >= ring_.size() && !ended(slot)) overtaken_.push_back(slot);
  slot = {next_, channel, ++channels_[static_cast<std::size_t>(channel)].sequence, op, label, rows, bytes, state, now, now, {}};
  return next_++;
}

FlightRecord* FlightRecorder::find(std::uint64_t id) {
  FlightRecord& slot = ring_[id % ring_.size()];
  if (slot.id == id) return &slot;
  const auto found = std::find_if(overtaken_.begin(), overtaken_.end(), [&](const FlightRecord& record) { return record.id == id; });
  return found == overtaken_.end() ? nullptr : &*found;
}

void FlightRecorder::change(std::uint64_t id, CollectiveState state) {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  FlightRecord* record = find(id);
  if (record == nullptr || ended(*record)) return;
  record->state = state;
  if (state == CollectiveState::waiting) record->waiting = now;
  if (!ended(*record)) return;
  record->ended = now;
  std::erase_if(overtaken_, [&](const FlightRecord& old) { return old.id == id; });
}

std::vector<FlightRecorder::Channel> FlightRecorder::channels() const {
  const std::lock_guard lock(mutex_);
  return channels_;
}

std::vector<FlightRecord> FlightRecorder::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<FlightRecord> result = overtaken_;
  const std::uint64_t first = next_ > ring_.size() ? next_ - ring_.size() : 0;
  for (std::uint64_t id = first; id < next_; ++id) result.push_back(ring_[id % ring_.size()]);
  return result;
}

std::optional<FlightRecord> FlightRecorder::waiting() const {
  const std::lock_guard lock(mutex_);
  const FlightRecord* longest = nullptr;
  const auto consider = [&](const FlightRecord& record) {
    if (record.state == CollectiveState::waiting && (longest == nullptr || record.waiting < longest->waiting)) longest = &record;
  };
  std::for_each(overtaken_.begin(), overtaken_.end(), consider);
  std::for_each(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(next_, ring_.size())), consider);
  return longest == nullptr ? std::nullopt : std::optional(*longest);
}

}  // namespace yard
