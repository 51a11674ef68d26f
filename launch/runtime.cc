#include "launch/runtime.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <iostream>

#include "comm/agree.h"
#include "comm/local.h"
#include "comm/mpi.h"
#include "core/device/cpu.h"
#include "core/device/gpu.h"

namespace yard {
namespace {

YARD_COLLECTIVE kThreads{"setup.threads"};
YARD_COLLECTIVE kPrecision{"setup.precision"};

void print_error(const std::exception& error) {
  std::cerr << "switchyard: " << sentence_of(error);
  if (const auto* ours = dynamic_cast<const Error*>(&error); ours != nullptr && std::getenv("SWITCHYARD_DEBUG") != nullptr) {
    std::cerr << " (" << ours->where() << ")";
  }
  std::cerr << std::endl;
}

}  // namespace

std::unique_ptr<Mesh> RankRuntime::make_mesh(const RunConfig::Mesh& resolved) {
  const MeshShape shape{static_cast<int>(resolved.expert()), static_cast<int>(resolved.data())};
  return std::make_unique<Mesh>(control, control.split(0, rank, "world"), shape);
}

int run_on_ranks(const std::function<void(RankRuntime&)>& body) {
  EventLog log;
  std::optional<MpiRuntime> mpi;
  int no_arguments = 0;
  char** none = nullptr;
  if (MpiRuntime::launched()) mpi.emplace(no_arguments, none, log);
  const auto control = mpi ? mpi->world("control") : make_self(log, "control");
  RankRuntime runtime(*control);
  runtime.abort = [&mpi] {
    if (mpi) mpi->abort(1);
  };
  try {
    body(runtime);
    runtime.watchdog.reset();
    return 0;
  } catch (const AgreedError& error) {
    runtime.watchdog.reset();
    if (error.reports()) print_error(error);
    return error.exit_code();
  } catch (const std::exception& error) {
    if (mpi && runtime.size > 1) report_and_abort(*mpi, runtime.rank, error);
    print_error(error);
    return exit_code_of(error);
  }
}

void start_watchdog(RankRuntime& runtime, double seconds, const std::string& folder) {
  if (runtime.watchdog != nullptr || seconds <= 0 || runtime.size == 1) {
    if (runtime.watchdog != nullptr && !folder.empty()) runtime.watchdog->set_folder(folder);
    return;
  }
  WatchdogOptions options;
  options.rank = runtime.rank;
  options.ranks = runtime.size;
  options.seconds = seconds;
  options.folder = folder;
  options.abort = runtime.abort;
  runtime.watchdog = std::make_unique<Watchdog>(runtime.log, options);
}

int choose_threads(RankRuntime& runtime, Index wanted) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  constexpr Index kWords = sizeof allowed / sizeof(std::int64_t);
  Tensor mine(runtime.host, {1, kWords}, DType::i64);
  std::memcpy(mine.raw(), &allowed, sizeof allowed);
  const Tensor all(runtime.host, {runtime.size, kWords}, DType::i64);
  runtime.control.all_gather(runtime.host, {kThreads}, mine, all).wait(runtime.host);
  int sharing = 0;  // ranks of this node that may use the same processors
  for (int rank = 0; rank < runtime.size; ++rank) {
    const auto nodes = runtime.control.nodes();
    const bool here = nodes[static_cast<std::size_t>(rank)] == nodes[static_cast<std::size_t>(runtime.rank)];
    const auto* theirs = static_cast<const char*>(all.row_range(rank, 1).raw());
    sharing += here && std::memcmp(theirs, &allowed, sizeof allowed) == 0 ? 1 : 0;
  }
  const int threads = wanted > 0 ? static_cast<int>(wanted) : std::max(1, CPU_COUNT(&allowed) / std::max(1, sharing));
  omp_set_num_threads(threads);
  return threads;
}

RunConfig::Device::Value choose_device(RankRuntime& runtime, RunConfig::Device::Value wanted) {
  if (wanted == RunConfig::Device::auto_) wanted = runtime.size == 1 && gpu_count() > 0 ? RunConfig::Device::cuda : RunConfig::Device::cpu;
  check_input(wanted != RunConfig::Device::cuda || gpu_count() > 0,
              "run.device is 'cuda', but there is no GPU here, or no driver that CUDA ", gpu_toolkit(), " can use: take 'cpu' or 'auto'");
  if (wanted == RunConfig::Device::cuda) runtime.gpu = std::make_unique<Stream>(Device{DeviceType::cuda, 0});
  return wanted;
}

DType choose_precision(RankRuntime& runtime, RunConfig::Precision::Value wanted) {
  Tensor fast(runtime.host, {1}, DType::i64);
  fast.data<std::int64_t>()[0] = runtime.gpu || has_fast_bf16() ? 1 : 0;
  runtime.control.all_reduce(runtime.host, {kPrecision}, fast, Reduce::min).wait(runtime.host);
  if (wanted == RunConfig::Precision::auto_) return fast.data<std::int64_t>()[0] == 1 ? DType::bf16 : DType::f32;
  return wanted == RunConfig::Precision::bf16 ? DType::bf16 : DType::f32;
}

}  // namespace yard
