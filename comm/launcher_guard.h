#pragma once

namespace yard {

/// Forks a helper that kills the Open MPI process that started this rank (mpirun, or this node's orted) if it is still running after
/// `seconds`; the helper exits as soon as that process has exited. For a job that is being aborted: after a link failure, mpirun waits for
/// an unreachable daemon, or a daemon for an unreachable mpirun, until TCP times out after about 15 minutes. Does nothing if Open MPI did
/// not start the rank. Never throws.
void guard_launcher(double seconds) noexcept;

}  // namespace yard
