#include "launch/environment.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include "launch/build_info.h"

namespace yard {

namespace {
std::vector<int> cores_of_this_process() {
  std::vector<int> cores;
  // Machines with more than 1024 cores need a larger set: double it until the system takes it.
  for (int most = 1024; most <= 1 << 20 && cores.empty(); most *= 2) {
    cpu_set_t* set = CPU_ALLOC(most);
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    if (sched_getaffinity(0, bytes, set) == 0) {
      for (int core = 0; core < most; ++core) {
        if (CPU_ISSET_S(core, bytes, set)) cores.push_back(core);
      }
    }
    CPU_FREE(set);
  }
  return cores;
}

std::string local_time(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), format, &parts);
  return text.data();
}

/// "a (ranks 0-3), b (ranks 4-7)" for values of ranks 0, 1, ...; just "a" when all are alike.
std::string by_rank(const std::vector<std::string>& values) {
  std::vector<std::pair<std::string, std::pair<std::size_t, std::size_t>>> runs;
  for (std::size_t rank = 0; rank < values.size(); ++rank) {
    if (runs.empty() || runs.back().first != values[rank]) runs.push_back({values[rank], {rank, rank}});
    runs.back().second.second = rank;
  }
  if (runs.size() == 1) return runs[0].first;
  std::string text;
  for (const auto& [value, ranks] : runs) {
    if (!text.empty()) text += ", ";
    text += ranks.first == ranks.second ? fmt::format("{} (rank {})", value, ranks.first)
                                        : fmt::format("{} (ranks {}-{})", value, ranks.first, ranks.second);
  }
  return text;
}

/// Of several lines, the first; without blanks at its end.
std::string first_line(const std::string& text) {
  std::string line = text.substr(0, text.find('\n'));
  line.erase(line.find_last_not_of(" \t\r,") + 1);
  return line;
}
}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "unknown-host";
  return name.data();
}

std::string allowed_cores() {
  const std::vector<int> cores = cores_of_this_process();
  std::string text;
  for (std::size_t first = 0; first < cores.size();) {
    std::size_t last = first;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += first == last ? fmt::format("{}", cores[first]) : fmt::format("{}-{}", cores[first], cores[last]);
    first = last + 1;
  }
  return text;
}

int allowed_core_count() { return std::max(1, static_cast<int>(cores_of_this_process().size())); }

int default_threads(const std::vector<std::string>& cores_of_local_ranks) {
  const auto sharing = std::count(cores_of_local_ranks.begin(), cores_of_local_ranks.end(), allowed_cores());
  return std::max(1, allowed_core_count() / std::max(1, static_cast<int>(sharing)));
}

std::string date_and_time() { return local_time("%Y-%m-%d %H:%M:%S %z"); }
std::string compact_date_and_time() { return local_time("%Y%m%d-%H%M%S"); }

std::string environment_block(const RunFacts& facts) {
  std::string text;
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) text += fmt::format("{:<10} {}\n", name, value);
  };
  line("switchyard", fmt::format("{} ({}, {}, {})", kVersion, kCommit, kBuildType, kCompiler));
  line("date", date_and_time());
  line("command", facts.command);
  line("mpi", first_line(facts.mpi));
  line("processor", facts.processor);
  line("device", facts.device);
  line("layout", facts.layout);
  line("hosts", by_rank(facts.hosts));
  line("cores", by_rank(facts.cores));
  line("threads", fmt::format("{} a rank", facts.threads));
  line("precision", facts.precision);
  return text;
}

}  // namespace yard
