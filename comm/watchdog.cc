#include "comm/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "comm/watchdog_report.h"

namespace yard {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables
  return value == nullptr ? "" : value;
}

/// Equal on all ranks of a job, different for every job.
std::string job_of_environment() {
  const std::string pmix = variable("PMIX_NAMESPACE");
  if (!pmix.empty()) return pmix;
  const std::string slurm = variable("SLURM_JOB_ID");
  return slurm.empty() ? std::to_string(getpid()) : slurm + "." + variable("SLURM_STEP_ID");
}

std::string temporary_folder(const std::string& job) {
  std::error_code failed;
  const auto base = std::filesystem::temp_directory_path(failed);
  return ((failed ? std::filesystem::path("/tmp") : base) / fmt::format("switchyard-{}-{}", getuid(), job)).string();
}

void write_to_stderr(const std::string& text) {
  std::fflush(nullptr);
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

class Watchdog::Impl {
 public:
  Impl(const EventLog& log, WatchdogOptions options) : log_(log), options_(std::move(options)) {
    if (options_.job.empty()) options_.job = job_of_environment();
    if (options_.folder.empty()) options_.folder = temporary_folder(options_.job);
    if (!options_.write) options_.write = write_to_stderr;
    if (!options_.exit) options_.exit = [] { _exit(1); };
    if (options_.seconds <= 0) return;
    remove(watchdog_file(options_.folder, options_.rank));
    thread_ = std::jthread([this](const std::stop_token& stop) {
      try {
        watch(stop);
      } catch (const std::exception& error) {
        options_.write(fmt::format("watchdog: rank {} is no longer watched: {}\n", options_.rank, error.what()));
      }
    });
  }

  void set_folder(const std::string& folder) {
    if (options_.seconds > 0) remove(watchdog_file(folder, options_.rank));
    const std::lock_guard lock(mutex_);
    options_.folder = folder;
  }

 private:
  static void remove(const std::string& path) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  std::string folder() {
    const std::lock_guard lock(mutex_);
    return options_.folder;
  }
  /// This file exists while a rank is past the limit, so that ranks with more recent pending collectives report as well.
  std::string alarm_file(const std::string& where) const { return where + "/watchdog-alarm-" + options_.job; }
  /// Returns false when the watchdog is to stop.
  bool sleep(const std::stop_token& stop, double seconds) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, stop, std::chrono::duration<double>(seconds), [&] { return stop.stop_requested(); });
  }
  bool still_incomplete(const CollectiveRecord& record) const {
    const auto now = log_.incomplete();
    return std::any_of(now.begin(), now.end(), [&](const CollectiveRecord& each) { return each.id == record.id; });
  }

  /// The record to report of those that have been incomplete for longer than `limit`, `since` on the watchdog's clock: one that this rank
  /// waits for, else the oldest.
  static std::optional<CollectiveRecord> overdue(const std::vector<CollectiveRecord>& incomplete,
                                                 const std::map<std::uint64_t, double>& since, double running, double limit) {
    std::optional<CollectiveRecord> chosen;
    for (const CollectiveRecord& record : incomplete) {
      if (running - since.at(record.id) <= limit) continue;
      if (!chosen || (record.wait && !chosen->wait)) chosen = record;
    }
    return chosen;
  }

  void watch(const std::stop_token& stop) {
    const double tick = std::clamp(options_.seconds / 10, 0.01, 0.2);
    const double short_wait = std::min(options_.seconds / 2, 1.0);
    auto last = Clock::now();
    double running = 0;                     // the watchdog's clock, which stands still while the process is suspended
    std::map<std::uint64_t, double> since;  // when each incomplete collective was posted, on that clock
    std::optional<CollectiveRecord> reported;
    while (sleep(stop, tick)) {
      const auto now = Clock::now();
      const double since_last = seconds_between(std::exchange(last, now), now);
      const double passed = since_last > 1 ? tick : since_last;  // a tick that took longer than a second: the process was suspended
      running += passed;
      const auto incomplete = log_.incomplete();
      std::map<std::uint64_t, double> known;
      for (const CollectiveRecord& record : incomplete) {
        const auto before = since.find(record.id);
        known[record.id] = before != since.end() ? before->second : running - std::min(seconds_between(record.posted, now), passed);
      }
      since = std::move(known);
      if (reported && !since.contains(reported->id)) {
        remove(watchdog_file(folder(), options_.rank));
        reported.reset();
      }
      if (const auto late = overdue(incomplete, since, running, options_.seconds)) {
        if (judge(stop, *late)) return;
        since.clear();
        reported.reset();
        last = Clock::now();
      } else if (const auto pending = overdue(incomplete, since, running, short_wait);
                 pending && !reported && std::filesystem::exists(alarm_file(folder()))) {
        reported = pending;
        write_watchdog_file(folder(), options_.rank, watchdog_report(log_, *pending, options_.rank, options_.job, false));
      }
    }
  }

  /// Reports, waits for the reports of other ranks, and aborts the job unless the collective has completed meanwhile. Returns whether the
  /// watchdog is done.
  bool judge(const std::stop_token& stop, const CollectiveRecord& record) {
    const std::string where = folder();
    const auto own = watchdog_report(log_, record, options_.rank, options_.job, true);
    const bool written = write_watchdog_file(where, options_.rank, own);
    std::ofstream(alarm_file(where)) << options_.rank << "\n";
    options_.write(incomplete_collectives(own) +
                   fmt::format("watchdog: rank {}: its last collectives are {} {}\n", options_.rank,
                               written ? "in" : "lost, since this cannot be written:", watchdog_file(where, options_.rank)));
    if (!sleep(stop, options_.grace)) return true;
    auto reports = read_watchdog_files(where, options_.ranks, options_.job);
    reports.emplace(options_.rank, own);
    const auto reporter =
        std::find_if(reports.begin(), reports.end(), [](const auto& report) { return report.second.value("late", false); });
    // The lowest late rank aborts the job. The other late ranks wait for that, and take over if its collective completed instead.
    if (reporter->first != options_.rank && !sleep(stop, options_.last_resort)) return true;
    if (still_incomplete(record)) {
      remove(alarm_file(where));
      options_.write(watchdog_sentence(reports, options_.seconds) + "\n");
      end_job(stop);
      return true;
    }
    remove(alarm_file(where));
    remove(watchdog_file(where, options_.rank));
    return false;
  }

  /// The abort itself may hang after a link failure.
  void end_job(const std::stop_token& stop) {
    const std::jthread ending([this] {
      if (options_.abort) options_.abort();
    });
    if (sleep(stop, options_.last_resort)) options_.exit();
  }

  const EventLog& log_;
  WatchdogOptions options_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::jthread thread_;  // last, so that it is joined before the other members are destroyed
};

Watchdog::Watchdog(const EventLog& log, WatchdogOptions options) : impl_(std::make_unique<Impl>(log, std::move(options))) {}
Watchdog::~Watchdog() = default;
void Watchdog::set_folder(const std::string& folder) { impl_->set_folder(folder); }

}  // namespace yard
