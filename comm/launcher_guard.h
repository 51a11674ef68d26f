#pragma once

namespace yard {

/// Leaves a process behind that ends the Open MPI process which started this rank (mpirun, or the daemon of this node) if that is still
/// there after `seconds`; it goes as soon as that one has. For a job that is being aborted: after a cut link mpirun waits for a daemon
/// that cannot hear it, and a daemon for an mpirun that cannot, for as long as TCP goes on trying: a quarter of an hour. Does nothing where
/// something else started the rank, and never throws.
void guard_launcher(double seconds) noexcept;

}  // namespace yard
