#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/exchange/exchange.h"
#include "tests/support/support.h"

namespace yard::test {

/// What every exchange promises, on any group of ranks; called by all of them.
class ExchangeContract {
 public:
  using Make = std::function<std::unique_ptr<Exchange>(Communicator&, Index experts)>;
  ExchangeContract(Communicator& group, Make make) : group_(group), make_(std::move(make)) {}

  void check_all() {
    for (const Case& c : cases()) {
      for (const DType dtype : {DType::f32, DType::bf16}) check_case(c, dtype);
    }
    check_twice_the_row();
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

  void check_case(const Case& c, DType dtype) {
    const std::string what =
        c.name + " " + std::string(name_of(dtype)) + ", rank " + std::to_string(group_.rank()) + " of " + std::to_string(group_.size());
    const Index experts = c.local * group_.size();
    const Slots mine = slots_of(c, group_.rank(), experts);
    const auto slots = static_cast<Index>(mine.expert.size());
    const Tensor weight = weights_of(mine.expert.size(), group_.rank());
    const Routing routing{tensor_of({slots}, mine.token), tensor_of({slots}, mine.expert), weight, {}};
    const Index tokens = c.tokens(group_.rank());
    const Tensor x = rows_of(tokens, 1, group_.rank(), dtype);
    const Tensor key(cpu_, {tokens}, DType::i64);
    for (Index i = 0; i < tokens; ++i) key.data<std::int64_t>()[i] = 1000 * group_.rank() + i;

    const Tokens none;
    Context context{cpu_, profiler_, none};
    const auto exchange = make_(group_, experts);
    const auto plan = exchange->plan(context, routing, tokens);
    Index next_expert = 0;
    double sent_dot_y = 0;
    double x_dot_home = 0;
    const Tensor home = Tensor::zeros(cpu_, {tokens, kWidth});
    const Tensor scalars = Tensor::zeros(cpu_, {slots});
    std::vector<Work> returning;
    for (Index piece = 0; piece < plan->pieces(); ++piece) {
      Arriving arriving = exchange->send(context, "out", *plan, piece, x, weight, key);
      arriving.work.wait(cpu_);
      EXPECT_EQ(plan->first_expert(piece), next_expert) << what;
      const Expected expected =
          arrivals(c, experts, group_.rank() * c.local + next_expert, static_cast<Index>(plan->rows_per_expert(piece).size()), dtype);
      next_expert += static_cast<Index>(plan->rows_per_expert(piece).size());
      EXPECT_EQ(std::vector<Index>(plan->rows_per_expert(piece).begin(), plan->rows_per_expert(piece).end()), expected.counts) << what;
      // In expert order, inside an expert in the order of the tokens everywhere; moved, not computed: bit for bit.
      EXPECT_EQ(to_f64(arriving.rows), expected.rows) << what;
      EXPECT_EQ(to_f64(arriving.weight), expected.weight) << what;
      EXPECT_EQ(to_f64(arriving.key), expected.key) << what;

      const Tensor back = rows_of(arriving.rows.length(), 2, group_.rank(), dtype);
      const Tensor of_row = random_tensor({arriving.rows.length()}, 3);
      for (Index i = 0; i < of_row.elements(); ++i) of_row.data<float>()[i] = arriving.weight.data<float>()[i] * 2;
      const auto sent = to_f64(arriving.rows);
      const auto y = to_f64(back);
      for (std::size_t i = 0; i < sent.size(); ++i) sent_dot_y += sent[i] * y[i];
      returning.push_back(exchange->home(context, "back", *plan, piece, back, of_row, home, scalars));
    }
    for (Work& work : returning) work.wait(cpu_);
    EXPECT_EQ(next_expert, c.local) << what;
    const auto came_home = to_f64(home);
    const auto left = to_f64(x);
    for (std::size_t i = 0; i < left.size(); ++i) x_dot_home += left[i] * came_home[i];
    const Tensor sums = Tensor::of<double>(cpu_, {2}, std::vector<double>{sent_dot_y, x_dot_home});
    group_.all_reduce(cpu_, profiler_, {"test"}, sums, Reduce::sum, When::now).wait(cpu_);
    EXPECT_NEAR(sums.values<double>()[0], sums.values<double>()[1], 1e-5 * std::max(1.0, std::abs(sums.values<double>()[0])))
        << what << ": <send(x), y> must equal <x, home(y)>";
    for (Index slot = 0; slot < slots; ++slot) {  // each slot's own scalar; an unused slot stays zero
      const bool used = mine.expert[static_cast<std::size_t>(slot)] >= 0;
      EXPECT_EQ(scalars.data<float>()[slot], used ? 2 * weight.data<float>()[slot] : 0.0F) << what << ", slot " << slot;
    }
  }

  struct Expected {
    std::vector<Index> counts;
    std::vector<double> rows, weight, key;
  };
  /// What arrives for experts [first, first + count) of all, by the definition.
  Expected arrivals(const Case& c, Index experts, Index first, Index count, DType dtype) const {
    Expected expected;
    for (Index expert = first; expert < first + count; ++expert) {
      Index rows = 0;
      for (int source = 0; source < group_.size(); ++source) {
        const Slots slots = slots_of(c, source, experts);
        const auto x = to_f64(rows_of(c.tokens(source), 1, source, dtype));
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

  /// Rows that go out and come home untouched arrive once for each choice of their token, added to what was there.
  void check_twice_the_row() {
    for (const Index k : {1, 2, 5}) {
      const Index tokens = 8;
      const Index experts = 2 * group_.size();
      std::vector<int> token;
      std::vector<int> expert;
      for (Index n = 0; n < tokens; ++n) {
        for (Index j = 0; j < k; ++j) {
          token.push_back(static_cast<int>(n));
          expert.push_back(static_cast<int>((n + j + group_.rank()) % experts));
        }
      }
      const Routing routing{tensor_of({tokens * k}, token), tensor_of({tokens * k}, expert), Tensor::zeros(cpu_, {tokens * k}), {}};
      const Tokens none;
      Context context{cpu_, profiler_, none};
      const auto exchange = make_(group_, experts);
      const auto plan = exchange->plan(context, routing, tokens);
      const Tensor x = rows_of(tokens, 9, group_.rank(), DType::f32);
      const Tensor y = rows_of(tokens, 10, group_.rank(), DType::f32);
      auto expected = to_f64(y);
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += static_cast<double>(k) * to_f64(x)[i];
      std::vector<Work> returning;
      for (Index piece = 0; piece < plan->pieces(); ++piece) {
        Arriving arriving = exchange->send(context, "out", *plan, piece, x, {}, {});
        arriving.work.wait(cpu_);
        EXPECT_FALSE(arriving.weight.defined());
        EXPECT_FALSE(arriving.key.defined());
        returning.push_back(exchange->home(context, "back", *plan, piece, arriving.rows, {}, y, {}));
      }
      for (Work& work : returning) work.wait(cpu_);
      expect_close(y, expected, 1e-6, "k " + std::to_string(k));
    }
  }

  static constexpr Index kWidth = 5;
  Communicator& group_;
  Make make_;
  Stream cpu_{Device{}};
  Profiler profiler_;
};

}  // namespace yard::test
