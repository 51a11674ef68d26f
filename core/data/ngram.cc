#include "core/data/ngram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>

#include "core/error.h"

namespace yard {

namespace {

constexpr Index kBlock = Index{1} << 16;  // tokens read at once

template <class Body>
void for_each_token(const TokenStream& text, Index tokens, const Body& body) {
  std::vector<std::int32_t> block;
  for (Index first = 0; first < tokens; first += kBlock) {
    block.resize(static_cast<std::size_t>(std::min(kBlock, tokens - first)));
    text.copy(first, block);
    for (const std::int32_t token : block) body(token);
  }
}

/// n1 / (n1 + 2 n2); one half where nothing occurs once, lest the unseen get no mass.
double discount_of(std::span<const std::int32_t> counts) {
  const auto once = static_cast<double>(std::count(counts.begin(), counts.end(), 1));
  const auto twice = static_cast<double>(std::count(counts.begin(), counts.end(), 2));
  return once > 0 ? once / (once + 2 * twice) : 0.5;
}

}  // namespace

Unigram::Unigram(const TokenStream& text, Index vocabulary) : counts_(static_cast<std::size_t>(vocabulary)), total_(text.length()) {
  for_each_token(text, text.length(), [&](std::int32_t token) { ++counts_.at(static_cast<std::size_t>(token)); });
}

double Unigram::probability(std::int32_t token) const {
  return (static_cast<double>(counts_.at(static_cast<std::size_t>(token))) + 0.5) /
         (static_cast<double>(total_) + 0.5 * static_cast<double>(counts_.size()));
}

KneserNeyBigram::KneserNeyBigram(const TokenStream& text, Index vocabulary, std::int32_t end_of_text) : vocabulary_(vocabulary) {
  check(end_of_text >= 0 && end_of_text < vocabulary, "the end of text ", end_of_text, " is outside of the vocabulary of ", vocabulary);
  count(text, end_of_text);
  discount_ = discount_of(count_);
  std::vector<std::int32_t> before(static_cast<std::size_t>(vocabulary));  // n(w)
  for (const std::int32_t token : follower_) ++before[static_cast<std::size_t>(token)];
  continuation_discount_ = discount_of(before);
  const auto pairs = static_cast<double>(follower_.size());
  const auto used = static_cast<double>(before.size()) - static_cast<double>(std::count(before.begin(), before.end(), 0));
  const double floor = continuation_discount_ * used / pairs / static_cast<double>(vocabulary);
  for (const std::int32_t n : before) continuation_.push_back(std::max(n - continuation_discount_, 0.0) / pairs + floor);
}

void KneserNeyBigram::count(const TokenStream& text, std::int32_t end_of_text) {
  const auto size = static_cast<std::size_t>(vocabulary_);
  total_.assign(size, 0);
  std::int32_t previous = end_of_text;
  const auto count_previous = [&](std::int32_t token) {
    check(token < vocabulary_, "token id ", token, " is outside of the vocabulary of ", vocabulary_);
    ++total_[static_cast<std::size_t>(previous)];
    previous = token;
  };
  for_each_token(text, text.length(), count_previous);
  // The followers of each token side by side, then sorted: a counting sort by the first token of the pairs.
  std::vector<std::size_t> place(size + 1);
  for (std::size_t h = 0; h < size; ++h) place[h + 1] = place[h] + static_cast<std::size_t>(total_[h]);
  std::vector<std::size_t> next = place;
  std::vector<std::int32_t> followers(place.back());
  previous = end_of_text;
  for_each_token(text, text.length(), [&](std::int32_t token) {
    followers[next[static_cast<std::size_t>(previous)]++] = token;
    previous = token;
  });
  first_.push_back(0);
  for (std::size_t h = 0; h < size; ++h) {
    const std::span<std::int32_t> row(followers.data() + place[h], followers.data() + place[h + 1]);
    std::sort(row.begin(), row.end());
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i == 0 || row[i] != row[i - 1]) {
        follower_.push_back(row[i]);
        count_.push_back(0);
      }
      ++count_.back();
    }
    first_.push_back(follower_.size());
  }
}

double KneserNeyBigram::probability(std::int32_t previous, std::int32_t token) const {
  const double continuation = continuation_.at(static_cast<std::size_t>(token));
  const auto h = static_cast<std::size_t>(previous);
  const auto total = static_cast<double>(total_.at(h));
  if (total == 0) return continuation;
  const auto begin = follower_.begin() + static_cast<std::ptrdiff_t>(first_[h]);
  const auto end = follower_.begin() + static_cast<std::ptrdiff_t>(first_[h + 1]);
  const auto found = std::lower_bound(begin, end, token);
  const double seen = found != end && *found == token ? count_[static_cast<std::size_t>(found - follower_.begin())] : 0;
  return (std::max(seen - discount_, 0.0) + discount_ * static_cast<double>(end - begin) * continuation) / total;
}

double TextCost::bits_per_byte() const {
  check(bytes > 0, "bits per byte need a text: the ", tokens, " tokens decode to no bytes");
  return nats / (std::numbers::ln2 * static_cast<double>(bytes));
}

TextCost cost_of(const TokenStream& text, Index tokens, const Tokenizer& tokenizer, std::int32_t end_of_text,
                 const std::function<double(std::int32_t previous, std::int32_t token)>& probability) {
  TextCost cost;
  cost.tokens = tokens > 0 ? std::min(tokens, text.length()) : text.length();
  std::int32_t previous = end_of_text;
  for_each_token(text, cost.tokens, [&](std::int32_t token) {
    cost.nats -= std::log(probability(previous, token));
    cost.bytes += static_cast<Index>(tokenizer.bytes(previous, token).size());
    previous = token;
  });
  return cost;
}

}  // namespace yard
