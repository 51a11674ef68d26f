#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/data/token_file.h"
#include "core/data/tokenizer.h"

namespace yard {

/// How often each token occurs, with half an occurrence added to every item of the vocabulary (Krichevsky and Trofimov 1981):
/// p(w) = (c(w) + 1/2) / (N + V/2).
class Unigram {
 public:
  Unigram(const TokenStream& text, Index vocabulary);
  double probability(std::int32_t token) const;

 private:
  std::vector<Index> counts_;
  Index total_ = 0;
};

/// Interpolated Kneser-Ney over pairs of tokens (Kneser and Ney 1995; Chen and Goodman 1999, section 4.1.6), one discount a level:
///   p(w | h) = max(c(h w) - D, 0) / c(h) + D types(h) / c(h) p'(w)         types(h): distinct tokens that follow h
///   p'(w)    = max(n(w) - D', 0) / n + D' U / n / V                         n(w): distinct tokens before w, n = sum, U: tokens with n(w) >
///   0 D = n1 / (n1 + 2 n2)   with n1 and n2 the numbers of pairs that occur once and twice; D' likewise from the n(w); 1/2 where n1 = 0
/// and p(w | h) = p'(w) for an h that was never followed. Every token has mass. An end of text stands before the first token.
class KneserNeyBigram {
 public:
  KneserNeyBigram(const TokenStream& text, Index vocabulary, std::int32_t end_of_text);
  double probability(std::int32_t previous, std::int32_t token) const;
  double discount() const noexcept { return discount_; }
  double continuation_discount() const noexcept { return continuation_discount_; }

 private:
  void count(const TokenStream& text, std::int32_t end_of_text);

  Index vocabulary_;
  std::vector<std::size_t> first_;      // of each h's followers; V + 1 entries
  std::vector<std::int32_t> follower_;  // ascending within an h
  std::vector<std::int32_t> count_;
  std::vector<Index> total_;          // c(h)
  std::vector<double> continuation_;  // p'(w)
  double discount_ = 0, continuation_discount_ = 0;
};

/// What a text costs. An end of text costs nats and counts no bytes.
struct TextCost {
  double nats = 0;
  Index tokens = 0, bytes = 0;
  double bits_per_byte() const;
};

/// The cost of the first `tokens` tokens (0: all) when each is predicted once, the first one after `end_of_text`.
TextCost cost_of(const TokenStream& text, Index tokens, const Tokenizer& tokenizer, std::int32_t end_of_text,
                 const std::function<double(std::int32_t previous, std::int32_t token)>& probability);

}  // namespace yard
