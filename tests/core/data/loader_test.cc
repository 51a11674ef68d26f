#include "core/data/loader.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::cpu;
using test::TemporaryFolder;

/// A stream whose token i is i, in documents of the given lengths.
std::shared_ptr<const TokenStream> counting(const TemporaryFolder& folder, const std::vector<int>& documents) {
  const int total = std::accumulate(documents.begin(), documents.end(), 0);
  MegatronWriter writer(folder / "count", total);
  std::int32_t next = 0;
  for (const int length : documents) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
    std::iota(ids.begin(), ids.end(), next);
    next += length;
    writer.add_document(ids);
  }
  writer.finish();
  return std::make_shared<TokenStream>(folder / "count", TokenFormat::automatic, total);
}

std::vector<int> values(const Tensor& tensor) {
  const auto span = tensor.values<std::int32_t>();
  return {span.begin(), span.end()};
}

TEST(Loader, SequentialWindowsReadOneMore) {
  const TemporaryFolder folder;
  LoaderOptions options;
  options.length = 4;
  options.global_batch = 2;
  options.order = Order::sequential;
  const Loader loader(counting(folder, {13}), options);  // three windows of four and the target of the last
  EXPECT_EQ(loader.windows(), 3);
  EXPECT_EQ(loader.targets(0), 8);
  const Tokens batch = loader.batch(cpu(), 0, 0);
  EXPECT_EQ(batch.sequences, 2);
  EXPECT_EQ(batch.length, 4);
  EXPECT_EQ(values(batch.ids), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(values(batch.targets), (std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(values(batch.positions), (std::vector<int>{0, 1, 2, 3, 0, 1, 2, 3}));
  const Tokens next = loader.batch(cpu(), 1, 0);
  EXPECT_EQ(next.first_sequence, 2);
  EXPECT_EQ(values(next.ids), (std::vector<int>{8, 9, 10, 11, 0, 1, 2, 3})) << "the second epoch begins within the step";
  EXPECT_EQ(values(next.targets).at(3), 12);
}

TEST(Loader, TheLastPartialWindowIsLeftOut) {
  const TemporaryFolder folder;
  LoaderOptions options;
  options.length = 4;
  EXPECT_EQ(Loader(counting(folder, {12}), options).windows(), 2) << "the target of the third window is missing";
  EXPECT_EQ(Loader(counting(folder, {5}), options).windows(), 1);
  try {
    const Loader loader(counting(folder, {4}), options);
    FAIL() << "four tokens are no window of four and a target";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("too short: 4 tokens"), std::string::npos) << error.what();
  }
}

TEST(Loader, EveryEpochHoldsEveryWindowOnceInAnOrderOfItsOwn) {
  const TemporaryFolder folder;
  LoaderOptions options;
  options.length = 3;
  options.seed = 5;
  const auto stream = counting(folder, {301});
  const Loader loader(stream, options);
  ASSERT_EQ(loader.windows(), 100);
  std::vector<std::vector<Index>> epochs(3);
  for (Index n = 0; n < 300; ++n) {
    const Window window = loader.at(n);
    EXPECT_EQ(window.epoch, n / 100);
    EXPECT_EQ(window.first % 3, 0);
    epochs[static_cast<std::size_t>(window.epoch)].push_back(window.first);
  }
  for (const auto& epoch : epochs) EXPECT_EQ(std::set<Index>(epoch.begin(), epoch.end()).size(), 100U);
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  EXPECT_FALSE(std::is_sorted(epochs[0].begin(), epochs[0].end()));
  options.seed = 6;
  const Loader other(stream, options);
  EXPECT_NE(other.at(0).first, loader.at(0).first) << "another seed, another order (by chance equal for 1 of 100 seeds)";
}

TEST(Loader, LayoutDoesNotChangeWhatAStepHolds) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {500});
  LoaderOptions options;
  options.length = 7;
  options.global_batch = 8;
  options.accumulate = 2;
  options.seed = 3;
  const Loader whole(stream, options);
  for (const Index shards : {1, 2, 4}) {
    for (Index step = 0; step < 12; ++step) {
      for (Index micro = 0; micro < 2; ++micro) {
        const Tokens expected = whole.batch(cpu(), step, micro);
        EXPECT_EQ(expected.first_sequence, step * 8 + micro * 4);
        std::vector<int> ids;
        for (Index shard = 0; shard < shards; ++shard) {
          const Tokens part = Loader(stream, options, shard, shards).batch(cpu(), step, micro);
          EXPECT_EQ(part.sequences_everywhere, 4);
          EXPECT_EQ(part.first_sequence, step * 8 + micro * 4 + shard * (4 / shards));
          const std::vector<int> own = values(part.ids);
          ids.insert(ids.end(), own.begin(), own.end());
        }
        EXPECT_EQ(ids, values(expected.ids));
      }
    }
  }
  EXPECT_THROW(Loader(stream, options, 0, 3), InputError) << "8 sequences are no multiple of 2 x 3";
}

TEST(Loader, AChangedBatchGoesOnWhereItWas) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {500});
  LoaderOptions options;
  options.length = 7;
  options.global_batch = 4;
  const Loader small(stream, options);
  options.global_batch = 6;
  Loader large(stream, options);
  large.resume(10, small.first_sequence(10));
  EXPECT_EQ(large.batch(cpu(), 10, 0).first_sequence, 40);
  EXPECT_EQ(large.batch(cpu(), 11, 0).first_sequence, 46);
  const std::vector<int> before = values(small.batch(cpu(), 10, 0).ids);
  std::vector<int> after = values(large.batch(cpu(), 10, 0).ids);
  after.resize(before.size());
  EXPECT_EQ(after, before);
}

TEST(Loader, DocumentMaskRestartsPositions) {
  const TemporaryFolder folder;
  LoaderOptions options;
  options.length = 8;
  options.order = Order::sequential;
  options.document_mask = true;
  const auto stream = counting(folder, {3, 4, 9, 1});  // documents end before tokens 3, 7 and 16
  EXPECT_EQ(values(Loader(stream, options).batch(cpu(), 0, 0).positions), (std::vector<int>{0, 1, 2, 0, 1, 2, 3, 0}));
  EXPECT_EQ(values(Loader(stream, options).batch(cpu(), 1, 0).positions), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}))
      << "a window starts at 0 although its document began before it";
  options.end_of_text = 4;
  EXPECT_EQ(values(Loader(stream, options).batch(cpu(), 0, 0).positions), (std::vector<int>{0, 1, 2, 0, 1, 0, 1, 0}));
  options.document_mask = false;
  EXPECT_EQ(values(Loader(stream, options).batch(cpu(), 0, 0).positions), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(Validation, PredictsEveryTokenOnceOnAnyNumberOfShards) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {30});
  constexpr std::int32_t kEnd = 29;
  for (const Index shards : {1, 2, 3, 4}) {
    for (const Index sequences : {1, 2, 5}) {
      std::multiset<int> predicted;
      Index targets = 0;
      for (Index shard = 0; shard < shards; ++shard) {
        const Validation validation(stream, 4, 0, sequences, kEnd, kEnd, false, shard, shards);
        EXPECT_EQ(validation.windows(), 8);
        EXPECT_EQ(validation.targets(), 30);
        for (Index pass = 0; pass < validation.passes(); ++pass) {
          const Tokens batch = validation.batch(cpu(), pass);
          EXPECT_EQ(batch.sequences, sequences);
          EXPECT_EQ(batch.sequences_everywhere, sequences * shards);
          const std::vector<int> ids = values(batch.ids);
          const std::vector<int> next = values(batch.targets);
          for (std::size_t i = 0; i < ids.size(); ++i) {
            EXPECT_EQ(ids[i] < 0, next[i] < 0);
            if (next[i] < 0) continue;
            EXPECT_EQ(ids[i], next[i] == 0 ? kEnd : next[i] - 1);
            predicted.insert(next[i]);
            ++targets;
          }
        }
      }
      EXPECT_EQ(targets, 30);
      EXPECT_EQ(std::set<int>(predicted.begin(), predicted.end()).size(), 30U);
    }
  }
}

TEST(Validation, TakesTheFirstWindows) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {30});
  const Validation validation(stream, 4, 3, 2, 29, 29, false);
  EXPECT_EQ(validation.windows(), 3);
  EXPECT_EQ(validation.targets(), 12);
  EXPECT_EQ(validation.passes(), 2);
  EXPECT_EQ(values(validation.batch(cpu(), 1).targets), (std::vector<int>{8, 9, 10, 11, -1, -1, -1, -1}));
  EXPECT_EQ(Validation(stream, 4, 100, 2, 29, 29, false).windows(), 8);
  EXPECT_EQ(Validation(stream, Index{1} << 20, 0, 1, 29, 29, false).windows(), 1) << "at least one window";
  EXPECT_THROW(Validation(stream, 4, -1, 2, 29, 29, false), InputError);
  EXPECT_THROW((void)validation.batch(cpu(), 2), Error);
}

TEST(Validation, DocumentMaskRestartsPositions) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {3, 2, 1});  // inputs: end, 0 1 2 | 3 4; token 5 is only a target
  const Validation validation(stream, 6, 0, 1, 99, 99, true);
  EXPECT_EQ(values(validation.batch(cpu(), 0).ids), (std::vector<int>{99, 0, 1, 2, 3, 4}));
  EXPECT_EQ(values(validation.batch(cpu(), 0).positions), (std::vector<int>{0, 0, 1, 2, 0, 1}));
}

TEST(Validation, WithoutAStartTheFirstTokenIsOnlyRead) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {10});
  const Validation validation(stream, 4, 0, 3, -1, -1, false);
  EXPECT_EQ(validation.windows(), 3);
  EXPECT_EQ(validation.targets(), 9);
  EXPECT_EQ(values(validation.batch(cpu(), 0).ids), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -1, -1}));
  EXPECT_EQ(values(validation.batch(cpu(), 0).targets), (std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1, -1}));
  EXPECT_EQ(Validation(stream, 4, 1, 1, -1, -1, false).targets(), 4);
  EXPECT_THROW(Validation(counting(folder, {1}), 4, 0, 1, -1, -1, false), InputError);
}

TEST(Validation, TheStartIsNoEndOfText) {
  const TemporaryFolder folder;
  const auto stream = counting(folder, {6});
  EXPECT_EQ(values(Validation(stream, 6, 0, 1, 9, 3, true).batch(cpu(), 0).positions), (std::vector<int>{0, 1, 2, 3, 4, 0}));
  EXPECT_EQ(values(Validation(stream, 6, 0, 1, 3, -1, true).batch(cpu(), 0).positions), (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

}  // namespace
}  // namespace yard
