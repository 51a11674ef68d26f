#include "comm/mpi_transfer.h"

#include <algorithm>
#include <array>

namespace yard {

void check_mpi(int code, std::string_view op, const std::string& communicator) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  fail("", op, " on ", communicator, " failed in MPI: ", std::string_view(text.data(), static_cast<std::size_t>(length)), " (code ", code,
       ")");
}

void MpiTypeTraits::destroy(Type type) noexcept {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Type_free(&type);
}

MpiType make_row_type(Index bytes) {
  check(bytes <= std::numeric_limits<int>::max(), "MPI moves rows of at most 2147483647 bytes, got ", bytes);
  MPI_Datatype type = MPI_DATATYPE_NULL;
  check_mpi(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type), "MPI_Type_contiguous", "a row");
  MpiType result(type);
  check_mpi(MPI_Type_commit(&type), "MPI_Type_commit", "a row");
  return result;
}

MpiType make_spread_type(MPI_Datatype row, Index rows, Index extent) {
  MPI_Datatype block = MPI_DATATYPE_NULL;
  check_mpi(MPI_Type_contiguous(static_cast<int>(rows), row, &block), "MPI_Type_contiguous", "a block of rows");
  const MpiType owner(block);
  MPI_Datatype type = MPI_DATATYPE_NULL;
  check_mpi(MPI_Type_create_resized(block, 0, static_cast<MPI_Aint>(extent), &type), "MPI_Type_create_resized", "a block of rows");
  MpiType result(type);
  check_mpi(MPI_Type_commit(&type), "MPI_Type_commit", "a block of rows");
  return result;
}

MPI_Datatype MpiState::row_type(Index bytes) {
  auto found = row_types.find(bytes);
  if (found == row_types.end()) found = row_types.emplace(bytes, make_row_type(bytes)).first;
  return found->second.get();
}

bool MpiState::drain(double seconds) {
  if (hangs_) return false;
  const auto from = Clock::now();
  for (MpiRequests& pending : given_up) {
    for (MPI_Request& request : pending.requests) {
      for (int ended = 0; ended == 0;) {
        const int code = MPI_Test(&request, &ended, MPI_STATUS_IGNORE);
        hangs_ = code != MPI_SUCCESS || seconds_between(from, Clock::now()) > seconds;
        if (hangs_) return false;
      }
    }
  }
  given_up.clear();
  return true;
}

MpiState::~MpiState() {
  // What has not ended may still be written to by the other ranks: its memory is never given back.
  if (!given_up.empty()) (void)new std::vector<MpiRequests>(std::move(given_up));
}

MpiTransfer::MpiTransfer(std::shared_ptr<MpiState> state, std::string_view op, const std::string& communicator)
    : state_(std::move(state)), op_(op), communicator_(communicator) {
  state_->under_way.push_back(this);
}

MpiTransfer::~MpiTransfer() { abandon(); }

void MpiTransfer::leave() noexcept { std::erase(state_->under_way, this); }

void MpiTransfer::abandon() noexcept {
  leave();
  if (open()) state_->given_up.push_back(std::exchange(pending_, {}));
}

void MpiTransfer::progress() {
  for (int ended = 0; open(); ++met_) {
    check_mpi(MPI_Test(&pending_.requests[met_], &ended, MPI_STATUS_IGNORE), op_, communicator_);
    if (ended == 0) return;
    if (met_ + 1 == pending_.requests.size()) ended_ = Clock::now();
  }
}

void MpiTransfer::wait(Stream&) {
  // One by one: with several, MPI_Waitall of Open MPI 4.1.4 may spin for ever when one of them fails, and it does not return the cause.
  for (; open(); ++met_) {
    check_mpi(MPI_Wait(&pending_.requests[met_], MPI_STATUS_IGNORE), op_, communicator_);
    if (met_ + 1 == pending_.requests.size()) ended_ = Clock::now();
  }
  leave();
  if (finish_) finish_();
}

}  // namespace yard
