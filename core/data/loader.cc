#include "core/data/loader.h"

#include <algorithm>
#include <span>
#include <vector>

#include "core/permutation.h"

namespace yard {

namespace {

/// A batch whose rows are filled on the host.
struct HostBatch {
  Tokens tokens;
  std::vector<std::int32_t> ids, positions, targets;
  HostBatch(Index sequences, Index length) {
    tokens.sequences = sequences;
    tokens.length = length;
    for (auto* rows : {&ids, &positions, &targets}) rows->assign(static_cast<std::size_t>(tokens.rows()), -1);
  }
  Tokens on(Stream& stream) {
    const auto tensor = [&](const std::vector<std::int32_t>& rows) { return Tensor::of<std::int32_t>(stream, {tokens.rows()}, rows); };
    tokens.ids = tensor(ids);
    tokens.positions = tensor(positions);
    tokens.targets = tensor(targets);
    return tokens;
  }
  /// The positions of `count` rows from `begin` on.
  std::span<std::int32_t> positions_of(std::size_t begin, std::size_t count) { return std::span(positions).subspan(begin, count); }
};

/// Distances from the start of the document, or of the window when the document began before it. `first` is the stream position of the
/// window's first row; `ends` are positions one past documents' last tokens.
void fill_positions(std::span<const std::int32_t> ids, Index first, std::span<const Index> ends, std::int32_t end_of_text,
                    bool document_mask, std::span<std::int32_t> positions) {
  auto end = std::upper_bound(ends.begin(), ends.end(), first);
  std::int32_t position = 0;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (document_mask && t > 0) {
      const bool marked = end != ends.end() && *end == first + static_cast<Index>(t);
      if (marked) ++end;
      if (marked || (end_of_text >= 0 && ids[t - 1] == end_of_text)) position = 0;
    }
    positions[t] = position++;
  }
}

}  // namespace

Loader::Loader(std::shared_ptr<const TokenStream> stream, const LoaderOptions& options, Index shard, Index shards)
    : stream_(std::move(stream)), options_(options), shard_(shard), shards_(shards) {
  check_input(options.length > 0, "data.length is ", options.length, "; it must be at least 1");
  check_input(options.accumulate > 0 && options.global_batch > 0 && options.global_batch % (options.accumulate * shards) == 0,
              "data.global_batch ", options.global_batch, " must be a multiple of data.accumulate x ranks, ", options.accumulate, " x ",
              shards);
  check(shard >= 0 && shard < shards, "shard ", shard, " is outside of ", shards);
  windows_ = (stream_->length() - 1) / options.length;
  check_input(windows_ > 0, "the data of ", stream_->name(), " is too short: ", stream_->length(),
              " tokens do not make one window of data.length ", options.length, " and the target after it");
}

Window Loader::at(Index sequence) const {
  const Index epoch = sequence / windows_;
  const Index entry = sequence % windows_;
  const Index window =
      options_.order == Order::sequential ? entry : Permutation(key_of(options_.seed, key_of("data order"), epoch), windows_)(entry);
  return {epoch, window * options_.length};
}

void Loader::resume(Index step, Index consumed) { origin_ = consumed - step * options_.global_batch; }

Tokens Loader::batch(Stream& stream, Index step, Index micro) const {
  check(micro >= 0 && micro < options_.accumulate, "micro-step ", micro, " is outside of ", options_.accumulate);
  const Index length = options_.length;
  const Index everywhere = options_.global_batch / options_.accumulate;
  const Index mine = everywhere / shards_;
  HostBatch batch(mine, length);
  batch.tokens.first_sequence = first_sequence(step) + micro * everywhere + shard_ * mine;
  batch.tokens.sequences_everywhere = everywhere;
  std::vector<std::int32_t> text(static_cast<std::size_t>(length) + 1);
  for (Index row = 0; row < mine; ++row) {
    const Window window = at(batch.tokens.first_sequence + row);
    stream_->copy(window.first, text);
    const auto begin = static_cast<std::size_t>(row * length);
    const auto size = static_cast<std::size_t>(length);
    std::copy(text.begin(), text.end() - 1, batch.ids.begin() + row * length);
    std::copy(text.begin() + 1, text.end(), batch.targets.begin() + row * length);
    fill_positions(std::span(batch.ids).subspan(begin, size), window.first, stream_->document_ends(), options_.end_of_text,
                   options_.document_mask, batch.positions_of(begin, size));
  }
  return batch.on(stream);
}

Validation::Validation(std::shared_ptr<const TokenStream> stream, Index length, Index windows, Index sequences, std::int32_t start,
                       std::int32_t end_of_text, bool document_mask, Index shard, Index shards)
    : stream_(std::move(stream)),
      length_(length),
      windows_(windows),
      sequences_(sequences),
      start_(start),
      end_of_text_(end_of_text),
      document_mask_(document_mask),
      shard_(shard),
      shards_(shards),
      first_(start < 0 ? 1 : 0) {
  check_input(length > 0, "data.length is ", length, "; it must be at least 1");
  check_input(windows >= 0, "data.validation_windows is ", windows, "; it must be 0 (all) or more");
  check(sequences > 0 && shard >= 0 && shard < shards, "shard ", shard, " of ", shards, " cannot take ", sequences, " sequences a pass");
  const Index predicted = stream_->length() - first_;
  check_input(predicted > 0, "", stream_->name(), " has one token, and none stands before it: there is nothing to predict");
  const Index all = (predicted + length - 1) / length;
  windows_ = std::min(all, windows > 0 ? windows : std::max<Index>(1, kDefaultTokens / length));
}

Index Validation::passes() const noexcept { return (windows_ + sequences_ * shards_ - 1) / (sequences_ * shards_); }

Index Validation::targets() const noexcept { return std::min(stream_->length() - first_, windows_ * length_); }

Tokens Validation::batch(Stream& stream, Index pass) const {
  check(pass >= 0 && pass < passes(), "validation pass ", pass, " is outside of ", passes());
  HostBatch batch(sequences_, length_);
  batch.tokens.first_sequence = (pass * shards_ + shard_) * sequences_;
  batch.tokens.sequences_everywhere = sequences_ * shards_;
  for (Index row = 0; row < sequences_; ++row) {
    const Index window = batch.tokens.first_sequence + row;
    const Index first = first_ + window * length_;  // of the targets; the token before it, or the start, is the first input
    const Index count = window < windows_ ? std::min(length_, stream_->length() - first) : 0;
    const auto begin = static_cast<std::size_t>(row * length_);
    const auto size = static_cast<std::size_t>(count);
    if (count > 0) {
      stream_->copy(first, std::span(batch.targets).subspan(begin, size));
      batch.ids[begin] = first == 0 ? start_ : stream_->token(first - 1);
      std::copy_n(batch.targets.begin() + row * length_, count - 1, batch.ids.begin() + row * length_ + 1);
    }
    // Row t reads token first + t - 1 of the stream, so that a document which ends at e starts again at the row whose input is token e.
    const auto whole = static_cast<std::size_t>(length_);
    fill_positions(std::span(batch.ids).subspan(begin, whole), first - 1, stream_->document_ends(), end_of_text_,
                   document_mask_ && count > 0, batch.positions_of(begin, whole));
  }
  return batch.on(stream);
}

}  // namespace yard
