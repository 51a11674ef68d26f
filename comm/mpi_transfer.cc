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

MpiType make_ranges_type(MPI_Datatype row, Index width, std::span<const RowRange> ranges) {
  std::vector<int> lengths;
  std::vector<MPI_Aint> offsets;
  for (const RowRange& range : ranges) {
    lengths.push_back(static_cast<int>(range.rows));
    offsets.push_back(static_cast<MPI_Aint>(range.first * width));
  }
  MPI_Datatype type = MPI_DATATYPE_NULL;
  check_mpi(MPI_Type_create_hindexed(static_cast<int>(lengths.size()), lengths.data(), offsets.data(), row, &type),
            "MPI_Type_create_hindexed", "ranges of rows");
  MpiType result(type);
  check_mpi(MPI_Type_commit(&type), "MPI_Type_commit", "ranges of rows");
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
  for (MpiRequests& pending : abandoned) {
    for (MPI_Request& request : pending.requests) {
      for (int completed = 0; completed == 0;) {
        const int code = MPI_Test(&request, &completed, MPI_STATUS_IGNORE);
        hangs_ = code != MPI_SUCCESS || seconds_between(from, Clock::now()) > seconds;
        if (hangs_) return false;
      }
    }
  }
  abandoned.clear();
  return true;
}

MpiState::~MpiState() {
  // Peers may still write to these buffers; they are leaked on purpose.
  if (!abandoned.empty()) (void)new std::vector<MpiRequests>(std::move(abandoned));
}

MpiTransfer::MpiTransfer(std::shared_ptr<MpiState> state, std::string_view op, const std::string& communicator)
    : state_(std::move(state)), op_(op), communicator_(communicator) {
  state_->outstanding.push_back(this);
}

MpiTransfer::~MpiTransfer() { abandon(); }

void MpiTransfer::unlist() noexcept { std::erase(state_->outstanding, this); }

void MpiTransfer::abandon() noexcept {
  unlist();
  if (incomplete()) state_->abandoned.push_back(std::exchange(pending_, {}));
}

void MpiTransfer::request_completed() {
  if (++complete_requests_ == pending_.requests.size()) completed_ = Clock::now();
}

void MpiTransfer::progress() {
  for (int completed = 0; incomplete(); request_completed()) {
    check_mpi(MPI_Test(&pending_.requests[complete_requests_], &completed, MPI_STATUS_IGNORE), op_, communicator_);
    if (completed == 0) return;
  }
}

bool MpiTransfer::done() {
  progress();
  return !incomplete();
}

void MpiTransfer::wait(Stream&) {
  // One request at a time: MPI_Waitall of Open MPI 4.1.4 may spin forever when one of several requests fails, and does not return the
  // cause.
  for (; incomplete(); request_completed()) {
    check_mpi(MPI_Wait(&pending_.requests[complete_requests_], MPI_STATUS_IGNORE), op_, communicator_);
  }
  unlist();
  if (finish_) finish_();
}

}  // namespace yard
