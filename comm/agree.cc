#include "comm/agree.h"

#include <algorithm>
#include <limits>

#include "comm/text.h"

namespace yard {
int exit_code_of(const std::exception& error) {
  if (const auto* agreed = dynamic_cast<const AgreedError*>(&error)) return agreed->exit_code();
  return dynamic_cast<const InputError*>(&error) != nullptr ? 2 : 1;
}

void agree(Communicator& communicator, Profiler& profiler, const std::function<void()>& body) {
  int code = 0;
  std::string sentence;
  try {
    body();
  } catch (const std::exception& error) {
    code = exit_code_of(error);
    sentence = error.what();
  } catch (...) {
    code = 1;
    sentence = "an exception of an unknown kind was thrown";
  }
  // The lowest rank that failed and its code in one number, so that one reduction tells both.
  constexpr std::int64_t kNobody = std::numeric_limits<std::int64_t>::max();
  const std::int64_t mine = code == 0 ? kNobody : std::int64_t{communicator.rank()} * 256 + code;
  Stream stream{Device{}};
  const Tensor first = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{mine});
  communicator.all_reduce(stream, profiler, {"agree"}, first, Reduce::min, When::now).wait(stream);
  const std::int64_t failed = first.data<std::int64_t>()[0];
  if (failed == kNobody) return;
  const int rank = static_cast<int>(failed / 256);
  sentence = broadcast_text(communicator, profiler, sentence, rank);
  throw AgreedError(sentence, static_cast<int>(failed % 256), communicator.rank() == rank);
}

}  // namespace yard
