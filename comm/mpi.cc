#include "comm/mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>

#include "comm/agree.h"
#include "comm/launcher_guard.h"
#include "comm/mpi_transfer.h"

namespace yard {
namespace {

/// The node of every rank of the job, numbered in the order of their lowest ranks.
std::vector<int> nodes_of_world(int rank, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node), "MPI_Comm_split_type", "world");
  int lowest = rank;
  check_mpi(MPI_Bcast(&lowest, 1, MPI_INT, 0, node), "MPI_Bcast", "a node");
  MPI_Comm_free(&node);
  std::vector<int> leaders(static_cast<std::size_t>(size));
  check_mpi(MPI_Allgather(&lowest, 1, MPI_INT, leaders.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather", "world");
  std::map<int, int> numbers;
  for (const int leader : leaders) numbers.emplace(leader, 0);
  int next = 0;
  for (auto& [leader, number] : numbers) number = next++;
  for (int& leader : leaders) leader = numbers.at(leader);
  return leaders;
}

}  // namespace

class MpiRuntime::Impl {
 public:
  Impl(int& argc, char**& argv, EventLog& own, Limits own_limits) : log(own), limits(own_limits) {
    int provided = MPI_THREAD_SINGLE;
    check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", "world");
    check(provided >= MPI_THREAD_FUNNELED, "this MPI library cannot be used by a program with threads (it offers MPI_THREAD_SINGLE)");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  }
  ~Impl() {
    if (std::uncaught_exceptions() > unwinding) return;
    // With requests that never complete, MPI_Finalize would hang as well; mpirun aborts the job when the process exits.
    if (!state->drain(1.0)) return;
    state->row_types.clear();
    MPI_Finalize();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  EventLog& log;
  Limits limits;
  std::shared_ptr<MpiState> state = std::make_shared<MpiState>();
  int unwinding = std::uncaught_exceptions();
};

MpiRuntime::MpiRuntime(int& argc, char**& argv, EventLog& log, Limits limits) : impl_(std::make_unique<Impl>(argc, argv, log, limits)) {}

MpiRuntime::~MpiRuntime() = default;

std::unique_ptr<Communicator> MpiRuntime::world(const std::string& name) { return world(impl_->limits, name); }

std::unique_ptr<Communicator> MpiRuntime::world(Limits limits, const std::string& name) {
  const Index most = std::numeric_limits<int>::max();
  check(limits.reduce_elements > 0 && limits.reduce_elements <= most && limits.move_rows > 0 && limits.move_rows <= most &&
            limits.move_bytes > 0,
        "MPI's counts are ints: limits lie between 1 and ", most, ", got ", limits.reduce_elements, " elements, ", limits.move_rows,
        " rows and ", limits.move_bytes, " bytes");
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup", "world");
  Membership members{name, 0, {}, {}};
  int size = 0;
  check_mpi(MPI_Comm_rank(comm, &members.rank), "MPI_Comm_rank", "world");
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size", "world");
  for (int rank = 0; rank < size; ++rank) members.world_ranks.push_back(rank);
  members.nodes = nodes_of_world(members.rank, size);
  return make_mpi_communicator(impl_->state, impl_->log, std::move(members), comm, limits);
}

void MpiRuntime::abort(int code) {
  constexpr double kLauncherSeconds = 5;  // mpirun ends a job that it can reach within one or two
  guard_launcher(kLauncherSeconds);
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

bool MpiRuntime::launched() {
  // Not SLURM_PROCID: a batch script has it too, and a program started there by hand is alone.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_FD", "MPI_LOCALRANKID"}) {
    if (std::getenv(name) != nullptr) return true;  // NOLINT(concurrency-mt-unsafe): nobody sets variables
  }
  return false;
}

int MpiRuntime::launched_rank() {
  if (!launched()) return 0;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);  // NOLINT(concurrency-mt-unsafe,cert-err34-c): a launcher wrote it
  }
  return 0;
}

void report_and_abort(MpiRuntime& runtime, int rank, const std::exception& error) {
  std::string line = "rank " + std::to_string(rank) + ": " + error.what();
  std::replace(line.begin(), line.end(), '\n', ' ');
  line += "\n";
  std::fflush(nullptr);
  for (std::size_t written = 0; written < line.size();) {  // one write, so that lines of several ranks do not mix
    const ssize_t some = ::write(STDERR_FILENO, line.data() + written, line.size() - written);
    if (some <= 0) break;
    written += static_cast<std::size_t>(some);
  }
  runtime.abort(exit_code_of(error));
}

}  // namespace yard
