#pragma once

#include "comm/mpi.h"

namespace yard::test {

/// Of a test program named *_mpi that mpirun has started; it is made before the first test and ends after the last.
MpiRuntime& runtime();
/// All ranks that mpirun has started.
Communicator& world();

}  // namespace yard::test
