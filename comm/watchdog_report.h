#pragma once

#include <map>
#include <string>

#include "comm/flight_recorder.h"
#include "core/io/json.h"

namespace yard {

/// What one rank knows when a collective hangs, as it is written to watchdog-rank-R.json: the collective it waits in ("waiting"), how far
/// it has come on every communicator, and its last records.
nlohmann::json watchdog_report(const FlightRecorder& recorder, const FlightRecord& waiting, int rank, const std::string& job, bool late);

/// The lines for stderr: what this rank has open.
std::string open_collectives(const nlohmann::json& report);

/// "<folder>/watchdog-rank-R.json"
std::string watchdog_file(const std::string& folder, int rank);
/// Whole or not at all; false where the folder cannot be written.
bool write_watchdog_file(const std::string& folder, int rank, const nlohmann::json& report);
/// The reports of this job's ranks, by rank.
std::map<int, nlohmann::json> read_watchdog_files(const std::string& folder, int ranks, const std::string& job);

/// One sentence on what hangs and who is missing: members without a report, or that have not entered the collective. Where a rank waits
/// for one that waits itself, the end of the chain is named: a collective that lacks only silent ranks comes before one that lacks waiting
/// ones. `limit` is the deadline in seconds.
std::string watchdog_sentence(const std::map<int, nlohmann::json>& reports, double limit);

}  // namespace yard
