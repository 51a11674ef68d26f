#pragma once

namespace yard {

/// Forks a helper that kills the Open MPI process which started this rank (mpirun, or this node's orted) if that still runs after
/// `seconds`; the helper exits as soon as that process has. For a job that is being aborted: after a cut link, mpirun waits for an
/// unreachable daemon, and a daemon for an unreachable mpirun, until TCP gives up after a quarter of an hour. Does nothing where something
/// else started the rank, and never throws.
void guard_launcher(double seconds) noexcept;

}  // namespace yard
