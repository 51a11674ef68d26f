#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/flight_recorder.h"
#include "comm/watchdog.h"
#include "core/device/stream.h"
#include "core/profiler.h"
#include "proto/config.pb.h"

namespace yard {

/// What every command that runs on ranks stands on. Made once, passed by reference.
struct RankRuntime {
  RankRuntime(FlightRecorder& records, std::unique_ptr<Communicator> everyone)
      : recorder(records), world(std::move(everyone)), rank(world->rank()), size(world->size()) {}
  FlightRecorder& recorder;
  std::unique_ptr<Communicator> world;  // until a mesh takes it
  std::unique_ptr<Watchdog> watchdog;   // empty until start_watchdog
  std::function<void()> abort;          // ends the whole job
  Stream host{Device{}};                // for what ranks tell each other about the run itself
  std::unique_ptr<Stream> gpu;          // empty until choose_device takes one
  Profiler profiler;
  const int rank, size;

  /// What the model computes on.
  Stream& stream() noexcept { return gpu ? *gpu : host; }
};

/// Runs a command's body on this rank: over MPI when mpirun or srun started the process, else as a world of one. Returns the exit code.
/// What all ranks know of is printed once and leaves by return; any other error is printed with its rank and aborts the job (law 14).
int run_on_ranks(const std::function<void(RankRuntime&)>& body);

/// From now on a collective that some rank never enters ends the job after `seconds`, with a sentence that names it; 0 is off.
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
