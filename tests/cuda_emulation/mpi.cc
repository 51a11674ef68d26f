// Calls of MPI that may block for other processes, as seen by the profiling interface: everything queued on the emulated GPU runs first,
// since a real one would get on by itself.

#include <mpi.h>

#include "tests/cuda_emulation/queues.h"

using yard::emulation::before_blocking_call;
using yard::emulation::before_starting_call;

extern "C" {

int MPI_Wait(MPI_Request* request, MPI_Status* status) {
  before_blocking_call("MPI_Wait", {});
  return PMPI_Wait(request, status);
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[]) {
  before_blocking_call("MPI_Waitall", {});
  return PMPI_Waitall(count, requests, statuses);
}

int MPI_Test(MPI_Request* request, int* flag, MPI_Status* status) {
  before_blocking_call("MPI_Test", {});  // it does not block, but it is asked in loops that do
  return PMPI_Test(request, flag, status);
}

int MPI_Barrier(MPI_Comm comm) {
  before_blocking_call("MPI_Barrier", {});
  return PMPI_Barrier(comm);
}

int MPI_Bcast(void* buffer, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  before_blocking_call("MPI_Bcast", {buffer});
  return PMPI_Bcast(buffer, count, type, root, comm);
}

int MPI_Allreduce(const void* send, void* receive, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  before_blocking_call("MPI_Allreduce", {send == MPI_IN_PLACE ? nullptr : send, receive});
  return PMPI_Allreduce(send, receive, count, type, op, comm);
}

int MPI_Allgather(const void* send, int send_count, MPI_Datatype send_type, void* receive, int receive_count, MPI_Datatype receive_type,
                  MPI_Comm comm) {
  before_blocking_call("MPI_Allgather", {send == MPI_IN_PLACE ? nullptr : send, receive});
  return PMPI_Allgather(send, send_count, send_type, receive, receive_count, receive_type, comm);
}

// These do not block, but take the bytes of their buffers from now on: a queued copy that touches them was not waited for.

int MPI_Isend(const void* buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request* request) {
  before_starting_call("MPI_Isend", {buffer});
  return PMPI_Isend(buffer, count, type, to, tag, comm, request);
}

int MPI_Irecv(void* buffer, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request* request) {
  before_starting_call("MPI_Irecv", {buffer});
  return PMPI_Irecv(buffer, count, type, from, tag, comm, request);
}

int MPI_Iallreduce(const void* send, void* receive, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, MPI_Request* request) {
  before_starting_call("MPI_Iallreduce", {send == MPI_IN_PLACE ? nullptr : send, receive});
  return PMPI_Iallreduce(send, receive, count, type, op, comm, request);
}

int MPI_Iallgather(const void* send, int send_count, MPI_Datatype send_type, void* receive, int receive_count, MPI_Datatype receive_type,
                   MPI_Comm comm, MPI_Request* request) {
  before_starting_call("MPI_Iallgather", {send == MPI_IN_PLACE ? nullptr : send, receive});
  return PMPI_Iallgather(send, send_count, send_type, receive, receive_count, receive_type, comm, request);
}

int MPI_Ibcast(void* buffer, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  before_starting_call("MPI_Ibcast", {buffer});
  return PMPI_Ibcast(buffer, count, type, root, comm, request);
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm* fresh) {
  before_blocking_call("MPI_Comm_split", {});
  return PMPI_Comm_split(comm, color, key, fresh);
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm* fresh) {
  before_blocking_call("MPI_Comm_split_type", {});
  return PMPI_Comm_split_type(comm, type, key, info, fresh);
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm* fresh) {
  before_blocking_call("MPI_Comm_dup", {});
  return PMPI_Comm_dup(comm, fresh);
}

int MPI_Comm_free(MPI_Comm* comm) {
  before_blocking_call("MPI_Comm_free", {});
  return PMPI_Comm_free(comm);
}

int MPI_Finalize() {
  before_blocking_call("MPI_Finalize", {});
  return PMPI_Finalize();
}

}  // extern "C"
