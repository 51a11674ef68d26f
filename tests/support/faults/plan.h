#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace yard::faults {

/// What may go wrong in a process, told by YARD_FAULT; the library is preloaded by tests into the program as users have it:
///
///   LD_PRELOAD=libyard_faults.so YARD_FAULT="rank=1 at=rename file=step-*.tmp do=kill" YARD_FAULT_REPORT=report switchyard train ...
///
/// A plan is words KEY=VALUE with spaces between them:
///   rank=N         the rank it happens on, as mpirun tells it; 0 for a process of its own. Default: any.
///   at=CALL        open (for writing), write (of any kind), sync, rename, make (a folder), remove (a file or a folder), send (what an
///                  all-to-all is made of) or collective
///   file=PATTERN   with *, ? and [], against as many last parts of the path as the pattern has; of a rename its old name, of a
///                  collective MPI's name of it, of a send MPI_Isend.BYTES with the bytes of a row. Default: any.
///   count=N        the N-th such call. Default 1.
///   do=ACTION      kill (SIGKILL before the call), kill-after, kill-half (when half of the bytes are written), stall (for ever),
///                  fail:ENOSPC or fail:EIO (it and all that come after it), fail-once:EINTR, short (half of the bytes, and all that come
///                  after fail with ENOSPC), half (half of the bytes, once), signal:USR1 or signal:TERM (to this process),
///                  signal-parent:USR1 (to mpirun), poison (what is sent is no number any more), note (nothing: every such call is only
///                  reported)
/// `then` puts one call after another: "rank=1 at=sync file=model-* then at=collective do=kill" dies in the first collective after the
/// first model file is on the disk. What happened is appended to the file YARD_FAULT_REPORT, a line each, before it happens.
class Plan {
 public:
  enum class Action { none, kill, kill_after, kill_half, stall, fail, fail_once, shorten, half, signal, signal_parent, poison, note };
  /// What to do with one call.
  struct Verdict {
    Action action = Action::none;
    int value = 0;  // an error number or a signal
  };

  /// Throws std::invalid_argument when a word is none of the above.
  Plan(const std::string& text, int rank, std::string report);
  /// The plan of this process.
  static Plan& of_process();

  bool empty() const noexcept { return stages_.empty(); }
  /// Counts this call. Kills, stalls and signals by itself what is to happen before the call.
  Verdict meet(const std::string& call, const std::string& path);
  /// What is left of a verdict when the call is over.
  static void after(Verdict verdict);

 private:
  struct Stage {
    std::string call, pattern = "*";
    std::size_t count = 1;
  };
  void set(const std::string& key, const std::string& value, Stage& stage);
  void tell(const std::string& call, const std::string& path) const;

  std::vector<Stage> stages_;
  Verdict verdict_;
  std::string word_;  // the action as it was written
  int rank_, wanted_rank_ = -1;
  std::string report_;
  std::mutex mutex_;
  std::size_t stage_ = 0, met_ = 0;
};

/// The path that an open file has.
std::string path_of(int descriptor);
/// The path of a name below an open folder.
std::string path_of(int folder, const char* name);

}  // namespace yard::faults
