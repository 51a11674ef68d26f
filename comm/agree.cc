#include "comm/agree.h"

#include <algorithm>
#include <limits>

namespace yard {
namespace {

/// Every rank has the text of `root`.
std::string broadcast_text(Communicator& communicator, Profiler& profiler, Stream& stream, const std::string& text, int root) {
  const auto length = static_cast<Index>(text.size());
  const Tensor size = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{length});
  communicator.broadcast(stream, profiler, {"agree"}, size, root).wait(stream);
  const Tensor letters(stream, {size.data<std::int64_t>()[0]}, DType::i32);
  if (communicator.rank() == root) std::copy(text.begin(), text.end(), letters.data<std::int32_t>());
  communicator.broadcast(stream, profiler, {"agree"}, letters, root).wait(stream);
  std::string result;
  for (const std::int32_t letter : letters.values<std::int32_t>()) result.push_back(static_cast<char>(letter));
  return result;
}

}  // namespace

int exit_code_of(const std::exception& error) {
  if (const auto* agreed = dynamic_cast<const AgreedError*>(&error)) return agreed->exit_code();
  return dynamic_cast<const InputError*>(&error) != nullptr ? 2 : 1;
}

void agree(Communicator& communicator, Profiler& profiler, Stream& stream, const std::function<void()>& body) {
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
  const Tensor first = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{mine});
  communicator.all_reduce(stream, profiler, {"agree"}, first, Reduce::min, When::now).wait(stream);
  const std::int64_t failed = first.data<std::int64_t>()[0];
  if (failed == kNobody) return;
  const int rank = static_cast<int>(failed / 256);
  sentence = broadcast_text(communicator, profiler, stream, sentence, rank);
  throw AgreedError(sentence, static_cast<int>(failed % 256), communicator.rank() == rank);
}

}  // namespace yard
