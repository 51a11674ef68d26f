#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/label.h"
#include "comm/transfer.h"
#include "core/tensor/tensor.h"

namespace yard {

/// Bytes that a collective moves between this rank and one rank of the group; this rank's own entry is a local copy.
struct PeerBytes {
  int peer = 0;  // group rank
  Index sent = 0, received = 0;
};

/// posted: pending, and this rank does not wait for it; waiting: pending, and this rank waits for it; abandoned: given up after an error.
enum class CollectiveState : std::uint8_t { posted, waiting, complete, abandoned };
std::string_view name_of(CollectiveState state);

/// One collective of this rank.
struct CollectiveRecord {
  std::uint64_t id = 0;        // counts the collectives of this rank
  int group = 0;               // index in EventLog::groups()
  std::uint64_t sequence = 0;  // counts the collectives of the group, from 1: equal on all of its ranks
  std::string_view op;         // "all_to_all"
  Label label;
  Index rows = 0;                              // rows of the larger tensor
  Index bytes_within = 0;                      // sent to other ranks of this rank's node
  Index bytes_between = 0;                     // sent to ranks of other nodes
  std::vector<PeerBytes> peers;                // all_to_all and send_receive: one entry per rank with bytes, in rank order; else empty
  Clock::time_point posted;                    // start of the posting call
  double posting_seconds = 0;                  // host time inside the posting call
  std::optional<Clock::time_point> wait;       // start of the first wait
  double waiting_seconds = 0;                  // host time inside the wait
  std::optional<Clock::time_point> completed;  // completion time on its device
  bool abandoned = false;

  CollectiveState state() const noexcept;
  Index bytes() const noexcept { return bytes_within + bytes_between; }
  /// From the posting call to completion.
  double seconds() const noexcept { return completed ? seconds_between(posted, *completed) : 0; }
  /// Host time that is not overlapped with computation: posting and waiting.
  double exposed_seconds() const noexcept { return posting_seconds + waiting_seconds; }
};

/// Every collective of this rank, recorded once (law 16): the watchdog, step metrics and traces read this log. It keeps the most recent
/// records as a flight recorder; incomplete records regardless of age; and, after start_reports, every record until take_completed has
/// returned it. Thread-safe, except for `track` and `poll`, which only the rank's own thread may call.
class EventLog {
 public:
  /// `capacity` is the number of most recent records to keep. Throws Error if it is zero.
  explicit EventLog(std::size_t capacity = 1024);
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  /// A group of ranks, with the sequence number of the last collective that this rank has posted on it.
  struct Group {
    std::string name;
    std::vector<int> members;  // world ranks
    std::uint64_t sequence = 0;
  };
  /// Adds a group and returns its index. A second group of the same name is called "name#2", and so on.
  int open(const std::string& name, std::span<const int> members);

  // Called by communicators.

  /// Adds a record, sets its id, sequence and posting time, and returns the id.
  std::uint64_t post(CollectiveRecord record);
  /// Records that the posting call returned after `seconds`.
  void posting_returned(std::uint64_t id, double seconds);
  /// Records the start of the first wait.
  void wait(std::uint64_t id);
  /// Records that no further wait follows: the wait returned after `waiting_seconds`, or there was nothing to wait for.
  void close(std::uint64_t id, double waiting_seconds);
  /// Records completion at the time `at`.
  void complete(std::uint64_t id, Clock::time_point at);
  /// Records that the collective was given up after an error.
  void abandon(std::uint64_t id);

  /// Makes `poll` complete the record once the transfer has completed, whether or not this rank waits for it.
  void track(std::uint64_t id, std::shared_ptr<Transfer> transfer);
  /// Completes the records of tracked transfers that have completed.
  void poll();

  // Called by readers.

  std::vector<Group> groups() const;
  /// The records that are kept, oldest first.
  std::vector<CollectiveRecord> records() const;
  /// The records that are posted but not complete, oldest first.
  std::vector<CollectiveRecord> incomplete() const;

  /// From now on every record is kept until take_completed has returned it.
  void start_reports();
  /// Returns the records that became final since the last call, oldest first: complete, and no longer waited for.
  std::vector<CollectiveRecord> take_completed();

 private:
  struct Entry {
    CollectiveRecord record;
    bool closed = false, reported = false;
    bool final() const noexcept { return closed && record.completed.has_value(); }
  };
  Entry* find(std::uint64_t id);
  void trim();

  mutable std::mutex mutex_;
  std::size_t capacity_;
  bool reports_ = false;
  std::vector<Group> groups_;
  std::deque<Entry> entries_;               // consecutive ids
  std::map<std::uint64_t, Entry> overdue_;  // incomplete or unreported when removed from entries_
  std::uint64_t next_ = 0;
  std::vector<std::pair<std::uint64_t, std::shared_ptr<Transfer>>> tracked_;
};

}  // namespace yard
