#include "launch/model_fits.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "comm/agree.h"
#include "comm/text.h"
#include "core/error.h"
#include "launch/environment.h"
#include "launch/memory_table.h"
#include "parallel/checkpoint/reader.h"

namespace yard {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

/// A number of /proc/meminfo in bytes; 0 if it is not there.
double meminfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  double kilobytes = 0;
  for (std::string unit; file >> name >> kilobytes && std::getline(file, unit);) {
    if (name == key + ":") return kilobytes * 1024;
  }
  return 0;
}

/// A number in a file of a control group; infinite if there is no such file, or no limit.
double cgroup_number(const char* file) {
  std::ifstream stream(std::string("/sys/fs/cgroup/") + file);
  double bytes = 0;
  return stream >> bytes ? bytes : std::numeric_limits<double>::infinity();
}

/// Bytes that processes of this host, or of this container, can still allocate; infinite if the system does not tell.
double available_memory() {
  const double free = meminfo("MemAvailable") + meminfo("SwapFree");
  const double limit = cgroup_number("memory.max") - std::min(cgroup_number("memory.current"), cgroup_number("memory.max"));
  const double left = free > 0 ? free : std::numeric_limits<double>::infinity();
  return limit >= 0 ? std::min(left, limit) : left;  // infinity minus infinity is not a limit
}

}  // namespace

void check_stored_sizes(const std::string& folder, const RunConfig& resolved) {
  const RunConfig::Model& model = resolved.model();
  const StoredSizes stored = stored_sizes(folder);
  const auto compare = [&](const char* field, Index configured, Index found) {
    check_input(found == 0 || configured == found, "model.", field, " is ", configured, ", but the files of ", folder, " hold ", found,
                ": its config.json, or an explicit setting, does not describe them");
  };
  compare("layers", model.layers(), stored.layers);
  compare("vocabulary", model.vocabulary(), stored.vocabulary);
  compare("width", model.width(), stored.width);
  if (model.experts() > 1) compare("experts", model.experts(), stored.experts);
}

void check_memory(RankRuntime& runtime, const ModelCosts& costs, const RunConfig& resolved, DType compute, bool train) {
  if (runtime.gpu) return;  // the device reports what it cannot allocate
  const MemoryEstimate memory = estimate_memory(costs, resolved, compute);
  const double own = memory.weights + memory.state + (train ? memory.gradients + memory.optimizer : 0);
  const auto hosts = gather_texts(runtime.control, host_name());
  const auto ranks = static_cast<double>(std::count(hosts.begin(), hosts.end(), host_name()));
  const double available = available_memory();
  agree(runtime.control, [&] {
    check_input(own * ranks <= available, "the model needs ",
                fmt::format("{:.1f} GiB on {} ({}, {} rank{})", own * ranks / kGiB, host_name(),
                            train ? "weights, gradients and optimizer state" : "weights", ranks, ranks == 1 ? "" : "s"),
                fmt::format(", which has {:.1f} GiB of memory available", available / kGiB),
                ": take a smaller model, more hosts, or a larger mesh.expert");
  });
}

}  // namespace yard
