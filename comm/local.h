#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace yard {

/// A world of threads: what tests stand on, and what a sanitizer can see through.
struct LocalWorld {
  int ranks = 1;
  std::vector<int> nodes;                  // the node of every rank; empty: all on node 0
  std::vector<FlightRecorder*> recorders;  // one for every rank; empty: each has its own
};

/// Runs `body` on as many threads as there are ranks and returns when all have ended. Inputs are copied when a collective is posted and
/// sums are formed in rank order, so results are the same in every run. A rank that throws, that ends while others wait for it, or that
/// calls another collective than the others makes all of them throw; the first error is thrown again here.
void run_local_world(const LocalWorld& world, const std::function<void(Communicator&)>& body);
void run_local_world(int ranks, const std::function<void(Communicator&)>& body);

/// A world of one rank: a program that runs without mpirun.
std::unique_ptr<Communicator> make_self(FlightRecorder& recorder);

}  // namespace yard
