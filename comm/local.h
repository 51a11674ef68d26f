#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace yard {

/// Threads as ranks, for tests and for the thread sanitizer.
struct LocalWorld {
  int ranks = 1;
  std::vector<int> nodes;       // node number of each rank; empty: all on node 0
  std::vector<EventLog*> logs;  // one per rank; empty: each rank has its own
};

/// Runs `body` on one thread per rank and returns when all threads have finished. Inputs are copied when a collective is posted and sums
/// are formed in rank order, so results are bitwise identical in every run. If a rank throws, returns while other ranks wait for it, or
/// calls a different collective from the other ranks, all ranks throw; the first error is rethrown here.
void run_local_world(const LocalWorld& world, const std::function<void(Communicator&)>& body);
void run_local_world(int ranks, const std::function<void(Communicator&)>& body);

/// A group of one rank, for a program that runs without mpirun.
std::unique_ptr<Communicator> make_self(EventLog& log, const std::string& name = "world");

}  // namespace yard
