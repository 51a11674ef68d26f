#include "comm/agree.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "comm/text.h"

namespace yard {
namespace {

YARD_COLLECTIVE kAgree{"agree"};

}  // namespace

std::string sentence_of(const std::exception& error) {
  const auto* failed = dynamic_cast<const std::filesystem::filesystem_error*>(&error);
  return failed != nullptr ? "cannot access " + failed->path1().string() + ": " + failed->code().message() : error.what();
}

int exit_code_of(const std::exception& error) {
  if (const auto* agreed = dynamic_cast<const AgreedError*>(&error)) return agreed->exit_code();
  if (const auto* failed = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    for (const std::errc path : {std::errc::permission_denied, std::errc::too_many_symbolic_link_levels, std::errc::filename_too_long,
                                 std::errc::not_a_directory, std::errc::no_such_file_or_directory}) {
      if (failed->code() == path) return 2;
    }
  }
  return dynamic_cast<const InputError*>(&error) != nullptr ? 2 : 1;
}

void agree(Communicator& control, const std::function<void()>& body) {
  int code = 0;
  std::string sentence;
  try {
    body();
  } catch (const std::exception& error) {
    code = exit_code_of(error);
    sentence = sentence_of(error);
  } catch (...) {
    code = 1;
    sentence = "an exception of an unknown kind was thrown";
  }
  // The lowest failing rank and its exit code in one number, for a single reduction.
  constexpr std::int64_t kNobody = std::numeric_limits<std::int64_t>::max();
  const std::int64_t mine = code == 0 ? kNobody : std::int64_t{control.rank()} * 256 + code;
  Stream stream{Device{}};
  const Tensor first = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{mine});
  control.all_reduce(stream, {kAgree}, first, Reduce::min, When::now).wait(stream);
  const std::int64_t failed = first.data<std::int64_t>()[0];
  if (failed == kNobody) return;
  const int rank = static_cast<int>(failed / 256);
  sentence = broadcast_text(control, sentence, rank);
  throw AgreedError(sentence, static_cast<int>(failed % 256), control.rank() == rank);
}

}  // namespace yard
