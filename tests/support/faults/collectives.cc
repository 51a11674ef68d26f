// Stands in for the calls of MPI in which ranks meet.
#include <mpi.h>

#include <cstring>
#include <string>

#include "tests/support/faults/plan.h"

namespace {

/// Around one call: what is planned before it, the call, what is planned after it.
template <class... Parameters, class... Arguments>
int around(const char* kind, const char* name, int (*call)(Parameters...), Arguments... arguments) {
  using yard::faults::Plan;
  const Plan::Verdict verdict = Plan::of_process().meet(kind, name);
  const int result = call(arguments...);
  Plan::after(verdict);
  return result;
}

}  // namespace

extern "C" {

int MPI_Allreduce(const void* in, void* out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  return around("collective", "MPI_Allreduce", PMPI_Allreduce, in, out, count, type, op, comm);
}
int MPI_Iallreduce(const void* in, void* out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, MPI_Request* request) {
  return around("collective", "MPI_Iallreduce", PMPI_Iallreduce, in, out, count, type, op, comm, request);
}
int MPI_Allgather(const void* in, int sent, MPI_Datatype sent_type, void* out, int received, MPI_Datatype type, MPI_Comm comm) {
  return around("collective", "MPI_Allgather", PMPI_Allgather, in, sent, sent_type, out, received, type, comm);
}
int MPI_Iallgather(const void* in, int sent, MPI_Datatype sent_type, void* out, int received, MPI_Datatype type, MPI_Comm comm,
                   MPI_Request* request) {
  return around("collective", "MPI_Iallgather", PMPI_Iallgather, in, sent, sent_type, out, received, type, comm, request);
}
int MPI_Bcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  return around("collective", "MPI_Bcast", PMPI_Bcast, data, count, type, root, comm);
}
int MPI_Ibcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  return around("collective", "MPI_Ibcast", PMPI_Ibcast, data, count, type, root, comm, request);
}
int MPI_Barrier(MPI_Comm comm) { return around("collective", "MPI_Barrier", PMPI_Barrier, comm); }
int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request* request) {
  int bytes = 0;
  PMPI_Type_size(type, &bytes);
  const auto verdict = yard::faults::Plan::of_process().meet("send", "MPI_Isend." + std::to_string(bytes));
  if (verdict.action == yard::faults::Plan::Action::poison) {
    // All ones are no number in f32, in bf16 and in f64.
    std::memset(const_cast<void*>(data), 0xff, static_cast<std::size_t>(count) * static_cast<std::size_t>(bytes));
  }
  const int result = PMPI_Isend(data, count, type, to, tag, comm, request);
  yard::faults::Plan::after(verdict);
  return result;
}

}  // extern "C"
