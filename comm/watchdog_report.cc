#include "comm/watchdog_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace yard {
namespace {

using nlohmann::json;

/// {3} is "rank 3", {1, 2, 5} is "ranks 1, 2 and 5".
std::string names_of(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 16;
  const std::size_t shown = std::min(ranks.size(), kShown);
  std::string result = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == ranks.size();
    result += (i == 0 ? "" : last ? " and " : ", ") + std::to_string(ranks[i]);
  }
  return shown == ranks.size() ? result : result + fmt::format(" and {} others", ranks.size() - shown);
}

std::string describe(const json& entry) {
  return fmt::format("{} ({} number {} on {})", entry.at("label").get<std::string>(), entry.at("op").get<std::string>(),
                     entry.at("sequence").get<std::uint64_t>(), entry.at("communicator").get<std::string>());
}

json entry_of(const CollectiveRecord& record, const std::vector<EventLog::Group>& groups, Clock::time_point now) {
  const auto& group = groups[static_cast<std::size_t>(record.group)];
  json entry{{"communicator", group.name},
             {"members", group.members},
             {"sequence", record.sequence},
             {"op", record.op},
             {"label", record.label.text()},
             {"kind", record.label.kind},
             {"rows", record.rows},
             {"bytes", record.bytes()},
             {"state", name_of(record.state())},
             {"seconds", record.completed ? record.seconds() : seconds_between(record.posted, now)},
             {"seconds_ago", seconds_between(record.posted, now)}};
  if (record.label.layer >= 0) entry["layer"] = record.label.layer;
  return entry;
}

/// The combined findings of all reports about one rank's pending collective.
struct Verdict {
  std::vector<int> silent;                      // ranks that have not entered it and wait in no collective
  std::vector<std::pair<int, json>> elsewhere;  // ranks that have not entered it and wait in another collective, with that collective
};

bool waits(const json& report) { return report.at("pending").at("state") == "waiting"; }

Verdict judge(const json& pending, const std::map<int, json>& reports) {
  Verdict verdict;
  for (const int member : pending.at("members").get<std::vector<int>>()) {
    const auto report = reports.find(member);
    if (report == reports.end()) {
      verdict.silent.push_back(member);
      continue;
    }
    const json& groups = report->second.at("communicators");
    const bool entered = std::any_of(groups.begin(), groups.end(), [&](const json& group) {
      return group.at("name") == pending.at("communicator") && group.at("members") == pending.at("members") &&
             group.at("sequence").get<std::uint64_t>() >= pending.at("sequence").get<std::uint64_t>();
    });
    if (entered) continue;
    if (waits(report->second)) {
      verdict.elsewhere.emplace_back(member, report->second.at("pending"));
    } else {
      verdict.silent.push_back(member);
    }
  }
  return verdict;
}

std::string missing_ranks(const Verdict& verdict, const std::vector<int>& members) {
  if (verdict.silent.empty() && verdict.elsewhere.empty()) {
    return fmt::format("no rank is missing, so the transfer itself hangs between {}", names_of(members));
  }
  std::vector<int> ranks = verdict.silent;
  for (const auto& [rank, where] : verdict.elsewhere) ranks.push_back(rank);
  std::sort(ranks.begin(), ranks.end());
  std::string text = names_of(ranks) + (ranks.size() == 1 ? " is missing" : " are missing");
  if (verdict.elsewhere.empty()) return text + (ranks.size() == 1 ? " (it waits in no collective)" : " (they wait in no collective)");
  const auto& [rank, where] = verdict.elsewhere.front();
  return text + fmt::format(" (rank {} waits in {})", rank, describe(where));
}

/// Orders verdicts by how close they are to the cause: all missing ranks wait in no collective; some do; all wait elsewhere; none is
/// missing.
int distance_of(const Verdict& verdict) {
  if (!verdict.silent.empty()) return verdict.elsewhere.empty() ? 0 : 1;
  return verdict.elsewhere.empty() ? 3 : 2;
}

}  // namespace

json watchdog_report(const EventLog& log, const CollectiveRecord& pending, int rank, const std::string& job, bool late) {
  const auto records = log.records();
  const auto groups = log.groups();  // after the records, so that it has all of their groups
  const auto now = Clock::now();
  json report{{"rank", rank}, {"job", job}, {"late", late}, {"pending", entry_of(pending, groups, now)}};
  for (const auto& group : groups) {
    report["communicators"].push_back({{"name", group.name}, {"members", group.members}, {"sequence", group.sequence}});
  }
  for (const CollectiveRecord& record : records) report["records"].push_back(entry_of(record, groups, now));
  return report;
}

std::string incomplete_collectives(const json& report) {
  std::string text;
  for (const json& entry : report.at("records")) {
    const auto state = entry.at("state").get<std::string>();
    if (state != "posted" && state != "waiting") continue;
    text += fmt::format("watchdog: rank {}: {}, {} rows, {} bytes, posted {:.1f} s ago, {}\n", report.at("rank").get<int>(),
                        describe(entry), entry.at("rows").get<Index>(), entry.at("bytes").get<Index>(),
                        entry.at("seconds_ago").get<double>(), state == "waiting" ? "waiting" : "not waited for yet");
  }
  return text;
}

std::string watchdog_file(const std::string& folder, int rank) { return fmt::format("{}/watchdog-rank-{}.json", folder, rank); }

bool write_watchdog_file(const std::string& folder, int rank, const json& report) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  const std::string path = watchdog_file(folder, rank);
  {
    std::ofstream out(path + ".new");
    out << report.dump(1) << "\n";
    if (!out.flush()) return false;
  }
  std::filesystem::rename(path + ".new", path, failed);
  return !failed;
}

std::map<int, json> read_watchdog_files(const std::string& folder, int ranks, const std::string& job) {
  std::map<int, json> result;
  for (int rank = 0; rank < ranks; ++rank) {
    std::ifstream in(watchdog_file(folder, rank));
    if (!in) continue;
    json report = parse_json(in);
    if (report.is_object() && report.value("job", "") == job) result.emplace(rank, std::move(report));
  }
  return result;
}

std::string watchdog_sentence(const std::map<int, json>& reports, double limit) {
  check(!reports.empty(), "the watchdog has no report to judge");
  const auto distance = [&](const auto& report) { return distance_of(judge(report.second.at("pending"), reports)); };
  const auto chosen =
      std::min_element(reports.begin(), reports.end(), [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  const json& pending = chosen->second.at("pending");
  return fmt::format("watchdog: rank {} has waited {:.1f} s {} {}: {}; run.watchdog_seconds is {:g}", chosen->first,
                     pending.at("seconds").get<double>(), waits(chosen->second) ? "in" : "for the completion of", describe(pending),
                     missing_ranks(judge(pending, reports), pending.at("members").get<std::vector<int>>()), limit);
}

}  // namespace yard
