#include "comm/event_log.h"

#include <algorithm>

namespace yard {

std::string Label::text() const {
  std::string result;
  if (layer == kEmbedding) result = "embedding.";
  if (layer == kHead) result = "head.";
  if (layer >= 0) result = "layer." + std::to_string(layer) + ".";
  return result.append(kind);
}

std::string_view name_of(CollectiveState state) {
  switch (state) {
    case CollectiveState::posted:
      return "posted";
    case CollectiveState::waiting:
      return "waiting";
    case CollectiveState::complete:
      return "complete";
    case CollectiveState::abandoned:
      return "abandoned";
  }
  fail("a collective has state number ", static_cast<int>(state));
}

CollectiveState CollectiveRecord::state() const noexcept {
  if (completed) return CollectiveState::complete;
  if (abandoned) return CollectiveState::abandoned;
  return wait ? CollectiveState::waiting : CollectiveState::posted;
}

namespace {

bool is_incomplete(const CollectiveRecord& record) { return !record.completed && !record.abandoned; }

}  // namespace

EventLog::EventLog(std::size_t capacity) : capacity_(capacity) {
  check(capacity > 0, "an event log keeps at least one record, got a capacity of ", capacity);
}

int EventLog::open(const std::string& name, std::span<const int> members) {
  const std::lock_guard lock(mutex_);
  const auto taken = [&](const std::string& candidate) {
    return std::any_of(groups_.begin(), groups_.end(), [&](const Group& group) { return group.name == candidate; });
  };
  std::string unique = name;
  for (int count = 2; taken(unique); ++count) unique = name + "#" + std::to_string(count);
  groups_.push_back({unique, {members.begin(), members.end()}, 0});
  return static_cast<int>(groups_.size()) - 1;
}

std::uint64_t EventLog::post(CollectiveRecord record) {
  record.posted = Clock::now();
  const std::lock_guard lock(mutex_);
  record.id = next_;
  record.sequence = ++groups_[static_cast<std::size_t>(record.group)].sequence;
  entries_.push_back({std::move(record), false, false});
  trim();
  return next_++;
}

/// Drops the oldest entries beyond the capacity; incomplete and unreported ones move to overdue_.
void EventLog::trim() {
  while (entries_.size() > capacity_) {
    Entry& oldest = entries_.front();
    const bool unreported = reports_ && !oldest.reported && !oldest.record.abandoned;
    if (is_incomplete(oldest.record) || unreported) overdue_.emplace(oldest.record.id, std::move(oldest));
    entries_.pop_front();
  }
}

EventLog::Entry* EventLog::find(std::uint64_t id) {
  if (!entries_.empty() && id >= entries_.front().record.id) {
    const std::uint64_t at = id - entries_.front().record.id;
    return at < entries_.size() ? &entries_[at] : nullptr;
  }
  const auto found = overdue_.find(id);
  return found == overdue_.end() ? nullptr : &found->second;
}

void EventLog::posting_returned(std::uint64_t id, double seconds) {
  const std::lock_guard lock(mutex_);
  if (Entry* entry = find(id)) entry->record.posting_seconds = seconds;
}

void EventLog::wait(std::uint64_t id) {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  Entry* entry = find(id);
  if (entry != nullptr && !entry->record.wait) entry->record.wait = now;
}

void EventLog::close(std::uint64_t id, double waiting_seconds) {
  const std::lock_guard lock(mutex_);
  Entry* entry = find(id);
  if (entry == nullptr) return;
  entry->record.waiting_seconds = waiting_seconds;
  entry->closed = true;
}

void EventLog::complete(std::uint64_t id, Clock::time_point at) {
  const std::lock_guard lock(mutex_);
  Entry* entry = find(id);
  if (entry == nullptr || !is_incomplete(entry->record)) return;
  entry->record.completed = at;
  if (!reports_) overdue_.erase(id);
}

void EventLog::abandon(std::uint64_t id) {
  std::erase_if(tracked_, [&](const auto& tracked) { return tracked.first == id; });
  const std::lock_guard lock(mutex_);
  Entry* entry = find(id);
  if (entry == nullptr || !is_incomplete(entry->record)) return;
  entry->record.abandoned = true;
  overdue_.erase(id);
}

void EventLog::track(std::uint64_t id, std::shared_ptr<Transfer> transfer) { tracked_.emplace_back(id, std::move(transfer)); }

void EventLog::poll() {
  std::erase_if(tracked_, [&](const auto& tracked) {
    const auto at = tracked.second->completed();
    if (at) complete(tracked.first, *at);
    return at.has_value();
  });
}

std::vector<EventLog::Group> EventLog::groups() const {
  const std::lock_guard lock(mutex_);
  return groups_;
}

std::vector<CollectiveRecord> EventLog::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> result;
  for (const auto& [id, entry] : overdue_) result.push_back(entry.record);
  for (const Entry& entry : entries_) result.push_back(entry.record);
  return result;
}

std::vector<CollectiveRecord> EventLog::incomplete() const {
  const std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> result;
  for (const auto& [id, entry] : overdue_) {
    if (is_incomplete(entry.record)) result.push_back(entry.record);
  }
  for (const Entry& entry : entries_) {
    if (is_incomplete(entry.record)) result.push_back(entry.record);
  }
  return result;
}

void EventLog::start_reports() {
  const std::lock_guard lock(mutex_);
  reports_ = true;
  for (Entry& entry : entries_) entry.reported = true;
}

std::vector<CollectiveRecord> EventLog::take_completed() {
  const std::lock_guard lock(mutex_);
  std::vector<CollectiveRecord> result;
  for (auto entry = overdue_.begin(); entry != overdue_.end();) {
    if (!entry->second.final()) {
      ++entry;
      continue;
    }
    result.push_back(std::move(entry->second.record));
    entry = overdue_.erase(entry);
  }
  for (Entry& entry : entries_) {
    if (!entry.final() || entry.reported) continue;
    entry.reported = true;
    result.push_back(entry.record);
  }
  return result;
}

}  // namespace yard
