#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/event_log.h"
#include "comm/watchdog.h"
#include "core/device/stream.h"
#include "core/profiler.h"
#include "parallel/mesh.h"
#include "proto/config.pb.h"

namespace yard {

/// What every command that runs on ranks stands on. Made once, passed by reference.
struct RankRuntime {
  /// `everyone` has all ranks of the job and must outlive the runtime.
  explicit RankRuntime(Communicator& everyone) : log(everyone.log()), control(everyone), rank(everyone.rank()), size(everyone.size()) {}
  EventLog& log;
  Communicator& control;               // all ranks, for host tensors: agreements, texts, metrics
  std::unique_ptr<Watchdog> watchdog;  // empty until start_watchdog
  std::function<void()> abort;         // aborts the job
  Stream host{Device{}};               // for host tensors
  std::unique_ptr<Stream> gpu;         // empty until choose_device selects a GPU
  Profiler profiler;
  const int rank, size;

  /// The stream that the model computes on.
  Stream& stream() noexcept { return gpu ? *gpu : host; }
  /// A mesh over all ranks for tensors of the model's device. Collective.
  std::unique_ptr<Mesh> make_mesh(const RunConfig::Mesh& resolved);
};

/// Runs a command's body on this rank: over MPI when mpirun or srun started the process, else on one rank. Returns the exit code. An error
/// that all ranks know is printed once and leaves by return; any other error is printed with its rank and aborts the job (law 14).
int run_on_ranks(const std::function<void(RankRuntime&)>& body);

/// From now on, a collective that is still pending `seconds` after it was posted aborts the job with a message that names it; 0: off.
void start_watchdog(RankRuntime&, double seconds, const std::string& folder);

/// Threads for each rank's products: `wanted`, or as many processors as the rank may use, shared with the ranks of its node that may use
/// the same. Collective. Sets OpenMP's number and returns it.
int choose_threads(RankRuntime&, Index wanted);

/// Takes the device that run.device asks for; `auto` takes a GPU where this build and the machine have one and the run has one rank, since
/// ranks on GPUs cannot exchange rows yet. Returns what was taken. Throws InputError where there is no such device.
RunConfig::Device::Value choose_device(RankRuntime&, RunConfig::Device::Value wanted);

/// The dtype of matrices that run.precision asks for; `auto` takes bf16 where every rank's device has it in hardware. Collective.
DType choose_precision(RankRuntime&, RunConfig::Precision::Value wanted);

}  // namespace yard
