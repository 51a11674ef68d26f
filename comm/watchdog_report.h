#pragma once

#include <map>
#include <string>

#include "comm/event_log.h"
#include "core/io/json.h"

namespace yard {

/// One rank's report on a pending collective, the content of watchdog-rank-R.json: the collective ("pending"), whether the rank waits for
/// it, the last collective that it has posted on each communicator, and its last records. `late`: whether this rank itself is past the
/// limit.
nlohmann::json watchdog_report(const EventLog& log, const CollectiveRecord& pending, int rank, const std::string& job, bool late);

/// The lines for stderr: this rank's incomplete collectives.
std::string incomplete_collectives(const nlohmann::json& report);

/// "<folder>/watchdog-rank-R.json"
std::string watchdog_file(const std::string& folder, int rank);
/// Writes the report atomically; returns false if the folder is not writable.
bool write_watchdog_file(const std::string& folder, int rank, const nlohmann::json& report);
/// The reports of this job's ranks, by rank.
std::map<int, nlohmann::json> read_watchdog_files(const std::string& folder, int ranks, const std::string& job);

/// One sentence that names the hanging collective and the missing ranks: ranks of its group that have not entered it. If a missing rank
/// itself waits in another collective, the end of the chain is named. `limit` is run.watchdog_seconds.
std::string watchdog_sentence(const std::map<int, nlohmann::json>& reports, double limit);

}  // namespace yard
