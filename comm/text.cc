#include "comm/text.h"

#include <algorithm>
#include <cstring>

namespace yard {
namespace {

YARD_COLLECTIVE kText{"text"};

// Communicators move numbers: a text is sent as 64-bit words, padded with zeros, after its length.
Index words_of(std::size_t letters) { return static_cast<Index>((letters + 7) / 8); }

}  // namespace

std::string broadcast_text(Communicator& control, const std::string& text, int root) {
  Stream stream{Device{}};
  const Tensor size = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{static_cast<std::int64_t>(text.size())});
  control.broadcast(stream, {kText}, size, root).wait(stream);
  const auto letters = static_cast<std::size_t>(size.data<std::int64_t>()[0]);
  const Tensor words = Tensor::zeros(stream, {words_of(letters)}, DType::i64);
  if (control.rank() == root) std::copy_n(text.data(), text.size(), static_cast<char*>(words.raw()));
  control.broadcast(stream, {kText}, words, root).wait(stream);
  return {static_cast<const char*>(words.raw()), letters};
}

std::vector<std::string> gather_texts(Communicator& control, const std::string& mine) {
  Stream stream{Device{}};
  const int ranks = control.size();
  const Tensor size = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{static_cast<std::int64_t>(mine.size())});
  const Tensor sizes(stream, {ranks}, DType::i64);
  control.all_gather(stream, {kText}, size, sizes).wait(stream);
  const auto lengths = sizes.values<std::int64_t>();
  const Index words = std::max<Index>(1, words_of(static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()))));
  const Tensor part = Tensor::zeros(stream, {1, words}, DType::i64);
  std::copy_n(mine.data(), mine.size(), static_cast<char*>(part.raw()));
  const Tensor all(stream, {ranks, words}, DType::i64);
  control.all_gather(stream, {kText}, part, all).wait(stream);
  std::vector<std::string> texts;
  for (int rank = 0; rank < ranks; ++rank) {
    texts.emplace_back(static_cast<const char*>(all.row_range(rank, 1).raw()),
                       static_cast<std::size_t>(lengths[static_cast<std::size_t>(rank)]));
  }
  return texts;
}

}  // namespace yard
