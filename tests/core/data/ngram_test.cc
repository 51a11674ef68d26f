#include "core/data/ngram.h"

#include <cmath>
#include <map>
#include <set>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;

TokenStream stream_of(const std::string& prefix, const std::vector<std::int32_t>& ids, Index vocabulary = 257) {
  MegatronWriter writer(prefix, vocabulary);
  writer.add_document(ids);
  writer.finish();
  return TokenStream(prefix, TokenFormat::megatron, vocabulary);
}

std::vector<std::int32_t> random_ids(std::uint64_t seed, int count, int vocabulary) {
  const Random random(seed);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    ids.push_back(static_cast<std::int32_t>(u * u * u * vocabulary));  // skewed, so that some pairs occur once, some often, some never
  }
  return ids;
}

TEST(Ngram, UnigramAddsHalf) {
  const TemporaryFolder folder;
  const Unigram unigram(stream_of(folder / "x", {1, 1, 0, 1}, 3), 3);
  EXPECT_DOUBLE_EQ(unigram.probability(0), 1.5 / 5.5);
  EXPECT_DOUBLE_EQ(unigram.probability(1), 3.5 / 5.5);
  EXPECT_DOUBLE_EQ(unigram.probability(2), 0.5 / 5.5);
}

TEST(Ngram, KneserNeyByHand) {
  // Vocabulary {0: end of text, 1: a, 2: b, 3: c}; text a b a b a c a a; pairs: 0a 1, ab 2, ba 2, ac 1, ca 1, aa 1.
  const TemporaryFolder folder;
  const KneserNeyBigram bigram(stream_of(folder / "x", {1, 2, 1, 2, 1, 3, 1, 1}, 4), 4, 0);
  // n1 = 4, n2 = 2: D = 4 / 8. Distinct tokens before a: end, b, c, a = 4; before b: 1; before c: 1; n1' = 2, n2' = 0: D' = 1.
  EXPECT_DOUBLE_EQ(bigram.discount(), 0.5);
  EXPECT_DOUBLE_EQ(bigram.continuation_discount(), 1.0);
  // p'(a) = 3/6 + (3/6)/4, the others (3/6)/4.
  const double a = 0.625;
  const double other = 0.125;
  // a is followed four times, by three types.
  EXPECT_DOUBLE_EQ(bigram.probability(1, 2), (2 - 0.5) / 4 + 0.5 * 3 / 4 * other);
  EXPECT_DOUBLE_EQ(bigram.probability(1, 1), (1 - 0.5) / 4 + 0.5 * 3 / 4 * a);
  EXPECT_DOUBLE_EQ(bigram.probability(1, 0), 0.5 * 3 / 4 * other);
  EXPECT_DOUBLE_EQ(bigram.probability(0, 1), 0.5 + 0.5 * a);
}

TEST(Ngram, EveryDistributionSumsToOne) {
  const TemporaryFolder folder;
  constexpr int kVocabulary = 40;
  for (const int count : {1, 2, 30, 3000}) {
    const TokenStream text = stream_of(folder / "x", random_ids(static_cast<std::uint64_t>(count), count, kVocabulary - 1), kVocabulary);
    const KneserNeyBigram bigram(text, kVocabulary, 0);
    const Unigram unigram(text, kVocabulary);
    double all = 0;
    for (int w = 0; w < kVocabulary; ++w) all += unigram.probability(w);
    EXPECT_NEAR(all, 1, 1e-12);
    for (int h = 0; h < kVocabulary; ++h) {
      double sum = 0;
      for (int w = 0; w < kVocabulary; ++w) {
        EXPECT_GT(bigram.probability(h, w), 0);
        sum += bigram.probability(h, w);
      }
      EXPECT_NEAR(sum, 1, 1e-12) << "after " << h << " of " << count << " tokens";
    }
  }
}

TEST(Ngram, KneserNeyEqualsTheFormulaOverMaps) {
  const TemporaryFolder folder;
  constexpr int kVocabulary = 60;
  const std::vector<std::int32_t> ids = random_ids(9, 300, kVocabulary);
  const KneserNeyBigram bigram(stream_of(folder / "x", ids, kVocabulary), kVocabulary, 7);
  std::map<std::pair<int, int>, int> pairs;
  int previous = 7;
  for (const int id : ids) {
    ++pairs[{previous, id}];
    previous = id;
  }
  std::map<int, int> totals;
  std::map<int, int> types;
  std::map<int, int> before;
  double n1 = 0;
  double n2 = 0;
  for (const auto& [pair, count] : pairs) {
    totals[pair.first] += count;
    ++types[pair.first];
    ++before[pair.second];
    n1 += count == 1 ? 1 : 0;
    n2 += count == 2 ? 1 : 0;
  }
  double m1 = 0;
  double m2 = 0;
  for (const auto& [token, count] : before) {
    m1 += count == 1 ? 1 : 0;
    m2 += count == 2 ? 1 : 0;
  }
  ASSERT_GT(m1, 0);
  ASSERT_GT(m2, 0);
  const double d = n1 / (n1 + 2 * n2);
  const double e = m1 / (m1 + 2 * m2);
  const auto n = static_cast<double>(pairs.size());
  for (int h = 0; h < kVocabulary; ++h) {
    for (int w = 0; w < kVocabulary; ++w) {
      const double lower =
          std::max(before[w] - e, 0.0) / n +
          e * static_cast<double>(std::count_if(before.begin(), before.end(), [](auto& b) { return b.second > 0; })) / n / kVocabulary;
      const auto found = pairs.find({h, w});
      const double count = found == pairs.end() ? 0 : found->second;
      const double expected = totals[h] == 0 ? lower : std::max(count - d, 0.0) / totals[h] + d * types[h] / totals[h] * lower;
      ASSERT_NEAR(bigram.probability(h, w), expected, 1e-14) << h << " " << w;
    }
  }
}

TEST(Ngram, CostCountsNatsOfEveryTokenAndBytesOfText) {
  const TemporaryFolder folder;
  const auto tokenizer = byte_tokenizer();
  const TokenStream text = stream_of(folder / "x", {104, 105, 256, 104, 256});
  std::vector<std::pair<int, int>> asked;
  const auto constant = [&](std::int32_t previous, std::int32_t token) {
    asked.emplace_back(previous, token);
    return 0.25;
  };
  const TextCost cost = cost_of(text, 0, *tokenizer, tokenizer->end_of_text(), constant);
  EXPECT_EQ(cost.tokens, 5);
  EXPECT_EQ(cost.bytes, 3);
  EXPECT_DOUBLE_EQ(cost.nats, 5 * std::log(4.0));
  EXPECT_DOUBLE_EQ(cost.bits_per_byte(), 10.0 / 3);
  EXPECT_EQ(asked, (std::vector<std::pair<int, int>>{{256, 104}, {104, 105}, {105, 256}, {256, 104}, {104, 256}}));
  EXPECT_EQ(cost_of(text, 2, *tokenizer, tokenizer->end_of_text(), constant).bytes, 2);
  EXPECT_EQ(cost_of(text, 99, *tokenizer, tokenizer->end_of_text(), constant).tokens, 5);
  EXPECT_THROW((void)TextCost().bits_per_byte(), Error);
}

}  // namespace
}  // namespace yard
