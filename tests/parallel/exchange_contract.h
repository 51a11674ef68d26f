#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/exchange/exchange.h"
#include "tests/support/support.h"

namespace yard::test {

/// The contract of every exchange, on any group of ranks; run by all of its ranks.
class ExchangeContract {
 public:
  using Make = std::function<std::unique_ptr<Exchange>(Communicator&, Index experts, Index chunks)>;
  ExchangeContract(Communicator& group, Make make) : group_(group), make_(std::move(make)) {}

  void check_all() {
    for (const Case& c : cases()) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        std::vector<Tensor> one_chunk;
        for (Index chunks = 1; chunks <= c.local; ++chunks) {
          const auto results = check_case(c, dtype, chunks);
          if (chunks == 1) one_chunk = results;
          for (std::size_t i = 0; i < results.size(); ++i) expect_same_bits(results[i], one_chunk[i], c.name + ", chunks");
        }
      }
    }
    check_order();
  }

 private:
  /// How a rank's slots look: a function of the rank alone, so that every rank knows what all others send.
  struct Slots {
    std::vector<int> token, expert;
  };
  struct Case {
    std::string name;
    Index local;  // experts of a rank
    std::function<Index(int rank)> tokens;
    std::function<int(int rank, Index token, Index choice, Index experts)> expert;
    Index k = 2;
  };

  static std::vector<Case> cases() {
    const auto same = [](Index count) { return [count](int) { return count; }; };
    const auto hashed = [](int rank, Index token, Index choice, Index experts) {
      return static_cast<int>((token * 7 + choice * 3 + rank * 5 + token * token) % experts);
    };
    return {
        {"even", 2, same(12),
         [](int, Index token, Index choice, Index experts) { return static_cast<int>((token * 2 + choice) % experts); }},
        {"uneven rows", 3, [](int rank) { return Index{3} + 5 * rank; }, hashed},
        {"one expert a rank", 1, same(9), hashed},
        {"a rank without rows", 2, [](int rank) { return rank == 0 ? Index{0} : Index{7}; }, hashed},
        {"all to one expert", 2, same(6), [](int, Index, Index, Index experts) { return static_cast<int>(experts) - 1; }, 1},
        {"some unused", 2, same(11),
         [=](int rank, Index token, Index choice, Index experts) {
           return (token + choice + rank) % 3 == 0 ? -1 : hashed(rank, token, choice, experts);
         },
         3},
        {"all unused", 2, same(5), [](int, Index, Index, Index) { return -1; }},
        {"no rows at all", 2, same(0), hashed},
    };
  }

  static Slots slots_of(const Case& c, int rank, Index experts) {
    Slots slots;
    for (Index token = 0; token < c.tokens(rank); ++token) {
      for (Index choice = 0; choice < c.k; ++choice) {
        slots.token.push_back(static_cast<int>(token));
        slots.expert.push_back(c.expert(rank, token, choice, experts));
      }
    }
    return slots;
  }
  static Tensor rows_of(Index rows, std::uint64_t seed, int rank, DType dtype) {
    return random_tensor({rows, kWidth}, key_of(seed, static_cast<std::uint64_t>(rank)), 1, dtype);
  }
  static Tensor weights_of(std::size_t slots, int rank) {
    return random_tensor({static_cast<Index>(slots)}, key_of(77, static_cast<std::uint64_t>(rank)));
  }

  /// Both directions on one plan. Returns what they combined: rows and scalars, forward and backward.
  std::vector<Tensor> check_case(const Case& c, DType dtype, Index chunks) {
    const std::string what = c.name + " " + std::string(name_of(dtype)) + ", " + std::to_string(chunks) + " chunks, rank " +
                             std::to_string(group_.rank()) + " of " + std::to_string(group_.size());
    const Index experts = c.local * group_.size();
    const Slots mine = slots_of(c, group_.rank(), experts);
    const auto slots = static_cast<Index>(mine.expert.size());
    const Tensor weight = weights_of(mine.expert.size(), group_.rank());
    Routing routing;
    routing.token = tensor_of({slots}, mine.token);
    routing.expert = tensor_of({slots}, mine.expert);
    routing.weight = weight;
    const Index tokens = c.tokens(group_.rank());
    const Tensor key(cpu_, {tokens}, DType::i64);
    for (Index i = 0; i < tokens; ++i) key.data<std::int64_t>()[i] = 1000 * group_.rank() + i;

    const Tokens none;
    Context context{cpu_, profiler_, none};
    const auto exchange = make_(group_, experts, chunks);
    const auto plan = exchange->plan(context, routing, tokens);
    EXPECT_EQ(plan->chunks(), chunks) << what;
    std::vector<Tensor> results;
    for (const auto direction : {Exchange::Direction::forward, Exchange::Direction::backward}) {
      const bool forward = direction == Exchange::Direction::forward;
      const std::uint64_t seed = forward ? 1 : 5;
      const Tensor x = rows_of(tokens, seed, group_.rank(), dtype);
      double sent_dot_returned = 0;
      std::vector<Work> returning;
      for (Index i = 0; i < chunks; ++i) {
        const Index chunk = forward ? i : chunks - 1 - i;  // backward takes the chunks in reverse
        Dispatched arrived = exchange->dispatch(context, direction, *plan, chunk, x, forward ? weight : Tensor(), forward ? key : Tensor());
        arrived.work.wait(cpu_);
        const auto rows_per_expert = plan->rows_per_expert(chunk);
        const Expected expected = arrivals(c, experts, group_.rank() * c.local + plan->first_expert(chunk),
                                           static_cast<Index>(rows_per_expert.size()), dtype, seed);
        EXPECT_EQ(std::vector<Index>(rows_per_expert.begin(), rows_per_expert.end()), expected.counts) << what;
        // In expert order, within an expert in global token order; moved, not computed: bitwise.
        EXPECT_EQ(to_f64(arrived.rows), expected.rows) << what;
        if (forward) {
          EXPECT_EQ(to_f64(arrived.weight), expected.weight) << what;
          EXPECT_EQ(to_f64(arrived.key), expected.key) << what;
        } else {
          EXPECT_FALSE(arrived.weight.defined() || arrived.key.defined()) << what;
        }
        // What this rank's experts make of their rows depends on the expert and the row alone, not on the chunk.
        Tensor result(cpu_, arrived.rows.shape(), dtype);
        const Tensor scalar(cpu_, {arrived.rows.length()});
        const auto sent = to_f64(arrived.rows);
        for (std::size_t at = 0; at < sent.size(); ++at) {
          const double value = 3 * sent[at] + 0.25;
          with_float_type(dtype, [&](auto type) { result.data<decltype(type)>()[at] = static_cast<float>(value); });
        }
        for (Index row = 0; row < scalar.elements(); ++row)
          scalar.data<float>()[row] = 2 * static_cast<float>(sent[static_cast<std::size_t>(row * kWidth)]);
        const auto returned = to_f64(result);
        for (std::size_t at = 0; at < sent.size(); ++at) sent_dot_returned += sent[at] * returned[at];
        returning.push_back(exchange->return_rows(context, direction, *plan, chunk, result, scalar));
      }
      Work::all(std::move(returning)).wait(cpu_);
      const Tensor combined = Tensor::zeros(cpu_, {tokens, kWidth});
      const Tensor scalars = Tensor::zeros(cpu_, {slots});
      exchange->combine(context, *plan, combined, scalars);
      const auto y = to_f64(combined);
      const auto left = to_f64(x);
      double x_dot_combined = 0;
      for (std::size_t i = 0; i < left.size(); ++i) x_dot_combined += left[i] * y[i];
      const Tensor sums = Tensor::of<double>(cpu_, {2}, std::vector<double>{sent_dot_returned, x_dot_combined});
      group_.all_reduce(cpu_, {"test"}, sums, Reduce::sum, When::now).wait(cpu_);
      EXPECT_NEAR(sums.values<double>()[0], sums.values<double>()[1], 1e-5 * std::max(1.0, std::abs(sums.values<double>()[0])))
          << what << ": <dispatch(x), y> must equal <x, combine(y)>";
      for (Index slot = 0; slot < slots; ++slot) {  // each slot's own scalar; an unused slot stays zero
        const bool used = mine.expert[static_cast<std::size_t>(slot)] >= 0;
        const auto first = static_cast<std::size_t>(mine.token[static_cast<std::size_t>(slot)] * kWidth);
        EXPECT_EQ(scalars.data<float>()[slot], used ? 2 * static_cast<float>(left[first]) : 0.0F) << what << ", slot " << slot;
      }
      results.push_back(combined);
      results.push_back(scalars);
    }
    return results;
  }

  struct Expected {
    std::vector<Index> counts;
    std::vector<double> rows, weight, key;
  };
  /// What arrives for experts [first, first + count) of all, by definition.
  Expected arrivals(const Case& c, Index experts, Index first, Index count, DType dtype, std::uint64_t seed) const {
    Expected expected;
    for (Index expert = first; expert < first + count; ++expert) {
      Index rows = 0;
      for (int source = 0; source < group_.size(); ++source) {
        const Slots slots = slots_of(c, source, experts);
        const auto x = to_f64(rows_of(c.tokens(source), seed, source, dtype));
        const auto weight = to_f64(weights_of(slots.expert.size(), source));
        for (std::size_t slot = 0; slot < slots.expert.size(); ++slot) {
          if (slots.expert[slot] != expert) continue;
          ++rows;
          const auto at = x.begin() + slots.token[slot] * kWidth;
          expected.rows.insert(expected.rows.end(), at, at + kWidth);
          expected.weight.push_back(weight[slot]);
          expected.key.push_back(1000.0 * source + slots.token[slot]);
        }
      }
      expected.counts.push_back(rows);
    }
    return expected;
  }

  /// Combine adds the rows of a token in slot order, in f32, and the sum to what is in y, whatever the number of chunks: values of which no
  /// two orders give the same sum.
  void check_order() {
    const Index local = 3;
    const Index experts = local * group_.size();
    const Index tokens = 40;
    const Index k = 5;
    std::vector<int> token;
    std::vector<int> expert;
    for (Index n = 0; n < tokens; ++n) {
      for (Index j = 0; j < k; ++j) {
        token.push_back(static_cast<int>(n));
        expert.push_back(static_cast<int>((n * 7 + j * j * 5 + group_.rank()) % experts));  // in no order
      }
    }
    Routing routing;
    routing.token = tensor_of({tokens * k}, token);
    routing.expert = tensor_of({tokens * k}, expert);
    routing.weight = Tensor::zeros(cpu_, {tokens * k});
    const auto value = [](int of_expert, float row) {
      return row * (of_expert % 2 == 0 ? 1e6F : 1.0F) * static_cast<float>(1 + of_expert);
    };
    const Tensor x = rows_of(tokens, 9, group_.rank(), DType::f32);
    const Tensor start = rows_of(tokens, 10, group_.rank(), DType::f32);
    std::vector<float> expected(static_cast<std::size_t>(tokens * kWidth));
    std::vector<float> reversed = expected;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto n = i / static_cast<std::size_t>(kWidth);
      std::vector<float> addends;  // rounded, so that no sum contracts with a product
      for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j)
        addends.push_back(value(expert[n * static_cast<std::size_t>(k) + j], x.data<float>()[i]));
      const float sum = std::accumulate(addends.begin(), addends.end(), 0.0F);
      const float backwards = std::accumulate(addends.rbegin(), addends.rend(), 0.0F);
      expected[i] = start.data<float>()[i] + sum;
      reversed[i] = start.data<float>()[i] + backwards;
    }
    EXPECT_NE(expected, reversed) << "these values show the order";
    for (Index chunks = 1; chunks <= local; ++chunks) {
      const Tokens none;
      Context context{cpu_, profiler_, none};
      const auto exchange = make_(group_, experts, chunks);
      const auto plan = exchange->plan(context, routing, tokens);
      const Tensor y(cpu_, start.shape());
      std::copy_n(start.data<float>(), start.elements(), y.data<float>());
      constexpr auto kForward = Exchange::Direction::forward;
      std::vector<Work> returning;
      for (Index chunk = 0; chunk < chunks; ++chunk) {
        Dispatched arrived = exchange->dispatch(context, kForward, *plan, chunk, x, {}, {});
        arrived.work.wait(cpu_);
        const Tensor rows(cpu_, arrived.rows.shape());
        Index at = 0;
        auto of_expert = static_cast<int>(group_.rank() * local + plan->first_expert(chunk));
        for (const Index count : plan->rows_per_expert(chunk)) {
          for (const Index end = at + count * kWidth; at < end; ++at)
            rows.data<float>()[at] = value(of_expert, arrived.rows.data<float>()[at]);
          ++of_expert;
        }
        returning.push_back(exchange->return_rows(context, kForward, *plan, chunk, rows, {}));
      }
      // The last chunk's rows may come first.
      for (auto work = returning.rbegin(); work != returning.rend(); ++work) work->wait(cpu_);
      exchange->combine(context, *plan, y, {});
      expect_same_bits(y, tensor_of({tokens, kWidth}, expected), "slot order, " + std::to_string(chunks) + " chunks");
    }
  }

  static constexpr Index kWidth = 5;
  Communicator& group_;
  Make make_;
  Stream cpu_{Device{}};
  Profiler profiler_;
};

}  // namespace yard::test
