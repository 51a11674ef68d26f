#pragma once

#include <map>
#include <string>

#include "comm/event_log.h"
#include "core/io/json.h"

namespace yard {

/// One rank's report on a collective that does not complete, the contents of watchdog-rank-R.json: the collective ("pending"), whether the
/// rank waits for it, the last collective that it has posted on every communicator, and its last records. `late`: this rank itself is past
/// the limit.
nlohmann::json watchdog_report(const EventLog& log, const CollectiveRecord& pending, int rank, const std::string& job, bool late);

/// The lines for stderr: this rank's incomplete collectives.
std::string incomplete_collectives(const nlohmann::json& report);

/// "<folder>/watchdog-rank-R.json"
std::string watchdog_file(const std::string& folder, int rank);
/// Atomic; false if the folder cannot be written.
bool write_watchdog_file(const std::string& folder, int rank, const nlohmann::json& report);
/// The reports of this job's ranks, by rank.
std::map<int, nlohmann::json> read_watchdog_files(const std::string& folder, int ranks, const std::string& job);

/// One sentence on which collective hangs and which ranks are missing: ranks of its group that have not entered it. Where a missing rank
/// waits in another collective itself, the end of the chain is named. `limit` is run.watchdog_seconds.
std::string watchdog_sentence(const std::map<int, nlohmann::json>& reports, double limit);

}  // namespace yard
