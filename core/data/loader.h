#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/context.h"
#include "core/data/token_file.h"

namespace yard {

enum class Order : std::uint8_t { shuffled, sequential };

/// What decides which tokens a step sees; the layout of the ranks does not.
struct LoaderOptions {
  Index length = 0;               // of a sequence, tokens
  Index global_batch = 1;         // sequences a step
  Index accumulate = 1;           // micro-steps a step
  Order order = Order::shuffled;  // of the windows within an epoch
  std::uint64_t seed = 0;
  bool document_mask = false;     // positions, and with them attention, start again after each document
  std::int32_t end_of_text = -1;  // the id that ends a document, beside the ends that the file knows; -1: none
};

/// Where the sequence with a given number of the global order is read.
struct Window {
  Index epoch = 0;
  Index first = 0;  // token of the stream; the window reads length + 1 from here, the last one only as a target
};

/// Cuts a stream of tokens into windows of `length` and deals them out to steps, micro-steps and shards. Everything is a pure function of
/// the options and of a sequence's number in the global order ("sequences consumed"): epoch e takes the windows in a permutation keyed by
/// (seed, e), and the last partial window is left out.
class Loader {
 public:
  /// Shard r of `shards` takes the r-th contiguous part of every micro-step. Throws InputError when global_batch is no multiple of
  /// accumulate x shards, or when the stream is shorter than one window.
  Loader(std::shared_ptr<const TokenStream> stream, const LoaderOptions& options, Index shard = 0, Index shards = 1);

  Index windows() const noexcept { return windows_; }
  Window at(Index sequence) const;
  /// Continues so that step `step` begins with the sequence number `consumed`, also when the global batch was another one before.
  void resume(Index step, Index consumed);
  /// The number of the first sequence of a step; of the step after the last one, the sequences consumed by the run.
  Index first_sequence(Index step) const noexcept { return origin_ + step * options_.global_batch; }
  /// This shard's part of a micro-step. ids, positions and targets are (sequences x length) i32.
  Tokens batch(Stream& stream, Index step, Index micro) const;
  /// Unmasked targets of a step over all micro-steps and shards, known without communication: nothing is masked in training yet.
  Index targets(Index /*step*/) const noexcept { return options_.global_batch * options_.length; }

 private:
  std::shared_ptr<const TokenStream> stream_;
  LoaderOptions options_;
  Index shard_ = 0, shards_ = 1, windows_ = 0, origin_ = 0;
};

/// The first windows of a stream, always the same, in passes that all shards take together. The token `start` stands before the stream, so
/// that every token is predicted exactly once; without one (-1) the first token is not predicted. The last window may be partial. Rows that
/// are left over in the last pass have id and target -1.
class Validation {
 public:
  /// `windows` 0 takes all, but at most kDefaultTokens. `sequences` is the number of sequences that one shard takes in a pass. With
  /// `document_mask` positions start again after each `end_of_text` (-1: after the ends that the file knows only).
  Validation(std::shared_ptr<const TokenStream> stream, Index length, Index windows, Index sequences, std::int32_t start,
             std::int32_t end_of_text, bool document_mask, Index shard = 0, Index shards = 1);
  static constexpr Index kDefaultTokens = Index{1} << 18;

  Index windows() const noexcept { return windows_; }
  Index passes() const noexcept;
  /// Targets of all passes and shards.
  Index targets() const noexcept;
  Tokens batch(Stream& stream, Index pass) const;

 private:
  std::shared_ptr<const TokenStream> stream_;
  Index length_, windows_, sequences_;
  std::int32_t start_, end_of_text_;
  bool document_mask_;
  Index shard_, shards_, first_;  // first_: the first token of the stream that is predicted
};

}  // namespace yard
