#include "core/ops/attention.h"

#include <omp.h>

#include <cmath>
#include <cstring>

#include "tests/support/support.h"

namespace yard::ops {
namespace {

using test::cpu;
using test::expect_close;
using test::random_tensor;
using test::to_f64;
using Values = std::vector<double>;

struct Case {
  std::string name;
  Heads heads;
  Index sequences, length;
  float scale = 0.2F, cap = 0;
  std::vector<Index> documents = {};  // rows at which a document begins, in every sequence; row 0 always does
  Index rows() const { return sequences * length; }
  AttentionSettings settings() const { return {heads, length, scale, cap}; }
  Tensor positions() const {
    std::vector<int> result;
    for (Index s = 0; s < sequences; ++s) {
      int at = 0;
      for (Index i = 0; i < length; ++i) {
        if (std::find(documents.begin(), documents.end(), i) != documents.end()) at = 0;
        result.push_back(at++);
      }
    }
    return test::tensor_of({rows()}, result);
  }
};

std::vector<Case> cases() {
  return {{"one row", {2, 2, 8}, 1, 1},
          {"a head of its own each", {3, 3, 16}, 2, 70},
          {"two share", {4, 2, 8}, 2, 130},
          {"four share", {4, 1, 32}, 1, 64},
          {"two pairs of two", {4, 2, 10}, 3, 33},
          {"long", {1, 1, 8}, 1, 300},
          {"more keys than are met at once", {2, 1, 8}, 1, 1100, 0.5F, 0, {40}},
          {"many capped keys", {1, 1, 4}, 1, 1030, 0.7F, 1.5F},
          {"documents", {2, 1, 8}, 2, 150, 0.3F, 0, {1, 40, 64, 100, 149}},
          {"capped", {2, 2, 8}, 1, 90, 0.7F, 1.5F},
          {"capped documents", {2, 1, 4}, 1, 70, 0.7F, 2, {30}},
          {"large scores", {2, 1, 16}, 1, 80, 30}};
}

// The plain loops. Index helpers: query head h and key/value head g of row n.
struct Reference {
  Values out, lse;
};

double score_of(const Case& c, double product) {
  const double s = product * static_cast<double>(c.scale);
  return c.cap == 0 ? s : static_cast<double>(c.cap) * std::tanh(s / static_cast<double>(c.cap));
}

struct Rows {
  const Case& c;
  std::size_t query(Index n, Index h) const { return static_cast<std::size_t>(n * c.heads.columns() + h * c.heads.width); }
  std::size_t key(Index n, Index h) const { return query(n, c.heads.heads + h * c.heads.kv_heads / c.heads.heads); }
  std::size_t value(Index n, Index h) const { return query(n, c.heads.heads + c.heads.kv_heads + h * c.heads.kv_heads / c.heads.heads); }
  std::size_t result(Index n, Index h) const { return static_cast<std::size_t>((n * c.heads.heads + h) * c.heads.width); }
};

double dot(const Values& a, std::size_t i, const Values& b, std::size_t j, Index n) {
  double sum = 0;
  for (std::size_t k = 0; k < static_cast<std::size_t>(n); ++k) sum += a[i + k] * b[j + k];
  return sum;
}

Reference attention_f64(const Case& c, const Values& qkv, const Values& positions) {
  const Rows at{c};
  Reference r{Values(static_cast<std::size_t>(c.rows() * c.heads.heads * c.heads.width)),
              Values(static_cast<std::size_t>(c.rows() * c.heads.heads))};
  for (Index n = 0; n < c.rows(); ++n) {
    const Index first = n - static_cast<Index>(positions[static_cast<std::size_t>(n)]);
    for (Index h = 0; h < c.heads.heads; ++h) {
      Values s;
      double most = -1e300;
      for (Index m = first; m <= n; ++m) {
        s.push_back(score_of(c, dot(qkv, at.query(n, h), qkv, at.key(m, h), c.heads.width)));
        most = std::max(most, s.back());
      }
      double sum = 0;
      for (const double value : s) sum += std::exp(value - most);
      r.lse[static_cast<std::size_t>(n * c.heads.heads + h)] = most + std::log(sum);
      for (Index m = first; m <= n; ++m) {
        const double p = std::exp(s[static_cast<std::size_t>(m - first)] - most) / sum;
        for (std::size_t k = 0; k < static_cast<std::size_t>(c.heads.width); ++k) r.out[at.result(n, h) + k] += p * qkv[at.value(m, h) + k];
      }
    }
  }
  return r;
}

Values backward_f64(const Case& c, const Values& dout, const Values& qkv, const Values& positions) {
  const Rows at{c};
  const Reference forward = attention_f64(c, qkv, positions);
  Values d(qkv.size());
  const auto width = static_cast<std::size_t>(c.heads.width);
  for (Index n = 0; n < c.rows(); ++n) {
    const Index first = n - static_cast<Index>(positions[static_cast<std::size_t>(n)]);
    for (Index h = 0; h < c.heads.heads; ++h) {
      const double along = dot(dout, at.result(n, h), forward.out, at.result(n, h), c.heads.width);
      for (Index m = first; m <= n; ++m) {
        const double s = score_of(c, dot(qkv, at.query(n, h), qkv, at.key(m, h), c.heads.width));
        const double p = std::exp(s - forward.lse[static_cast<std::size_t>(n * c.heads.heads + h)]);
        double ds = p * (dot(dout, at.result(n, h), qkv, at.value(m, h), c.heads.width) - along) * static_cast<double>(c.scale);
        if (c.cap != 0) ds *= 1 - (s / static_cast<double>(c.cap)) * (s / static_cast<double>(c.cap));
        for (std::size_t k = 0; k < width; ++k) {
          d[at.query(n, h) + k] += ds * qkv[at.key(m, h) + k];
          d[at.key(m, h) + k] += ds * qkv[at.query(n, h) + k];
          d[at.value(m, h) + k] += p * dout[at.result(n, h) + k];
        }
      }
    }
  }
  return d;
}

TEST(Attention, LoopsOfTheTestAreRight) {
  for (const Case& c : {Case{"small", {2, 1, 2}, 2, 4, 0.5F, 0, {2}}, Case{"capped", {2, 2, 2}, 1, 3, 0.8F, 1.2F}}) {
    const Values positions = to_f64(c.positions());
    const Values qkv = to_f64(random_tensor({c.rows(), c.heads.columns()}, 1));
    const Values dout = to_f64(random_tensor({c.rows(), c.heads.heads * c.heads.width}, 2));
    const auto loss = [&](const Values& v) { return dot(attention_f64(c, v, positions).out, 0, dout, 0, static_cast<Index>(dout.size())); };
    expect_close(backward_f64(c, dout, qkv, positions), test::numeric_gradient(loss, qkv), 1e-7, c.name);
  }
}

TEST(Attention, AgreesWithLoopsInF32) {
  for (const Case& c : cases()) {
    const Tensor qkv = random_tensor({c.rows(), c.heads.columns()}, 1);
    const Tensor dout = random_tensor({c.rows(), c.heads.heads * c.heads.width}, 2);
    const Tensor positions = c.positions();
    const AttentionOut forward = attention(cpu(), qkv, positions, c.settings());
    const Reference expected = attention_f64(c, to_f64(qkv), to_f64(positions));
    const double bound = c.scale > 1 ? 1e-4 : 1e-5;  // scores of 1e3 are themselves only known to 1e-4
    expect_close(forward.out, expected.out, bound, c.name);
    expect_close(forward.log_sum_exp, expected.lse, 1e-5, c.name + ", log-sum-exp");
    const Tensor dqkv = attention_backward(cpu(), dout, qkv, positions, forward, c.settings());
    expect_close(dqkv, backward_f64(c, to_f64(dout), to_f64(qkv), to_f64(positions)), bound, c.name + ", gradient");
  }
}

// Scores and sums are f32: what remains is the rounding of results to bf16 (2^-8 of each), of the result that the gradient's row sums use,
// and of probabilities and the gradients of scores before they meet bf16 values.
TEST(Attention, AgreesWithLoopsInBf16) {
  for (const Case& c : cases()) {
    const Tensor qkv = random_tensor({c.rows(), c.heads.columns()}, 1, 1, DType::bf16);
    const Tensor dout = random_tensor({c.rows(), c.heads.heads * c.heads.width}, 2, 1, DType::bf16);
    const Tensor positions = c.positions();
    const AttentionOut forward = attention(cpu(), qkv, positions, c.settings());
    ASSERT_EQ(forward.out.dtype(), DType::bf16);
    const Values expected = attention_f64(c, to_f64(qkv), to_f64(positions)).out;
    expect_close(forward.out, expected, 0x1p-8 + 1e-4, c.name);
    EXPECT_LT(test::relative_error(to_f64(forward.out), expected), 0x1p-8) << c.name;
    const Tensor dqkv = attention_backward(cpu(), dout, qkv, positions, forward, c.settings());
    const double bound = c.scale > 1 ? 0x1p-5 : 0x1p-7;  // a nearly certain choice leaves only the difference of two rounded sums
    const Values gradient = backward_f64(c, to_f64(dout), to_f64(qkv), to_f64(positions));
    EXPECT_LT(test::relative_error(to_f64(dqkv), gradient), bound) << c.name;
  }
}

TEST(Attention, LaterRowsAndOtherSequencesChangeNothing) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c{"", {4, 2, 16}, 3, 150};
    const Tensor qkv = random_tensor({c.rows(), c.heads.columns()}, 1, 1, dtype);
    const Tensor positions = c.positions();
    const Tensor dout = random_tensor({c.rows(), c.heads.heads * c.heads.width}, 3, 1, dtype);
    const AttentionOut whole = attention(cpu(), qkv, positions, c.settings());
    const Tensor gradient = attention_backward(cpu(), dout, qkv, positions, whole, c.settings());
    for (const Index kept : {1, 63, 64, 100, 149}) {
      const Tensor changed = qkv.clone(cpu());
      const Tensor later = random_tensor({c.length - kept, c.heads.columns()}, 2, 5, dtype);
      std::memcpy(changed.row_range(c.length + kept, c.length - kept).raw(), later.raw(), later.bytes());
      const AttentionOut now = attention(cpu(), changed, positions, c.settings());
      test::expect_same_bits(now.out.row_range(0, c.length + kept), whole.out.row_range(0, c.length + kept), "earlier rows");
      test::expect_same_bits(now.out.row_range(2 * c.length, c.length), whole.out.row_range(2 * c.length, c.length), "the next sequence");
      EXPECT_NE(std::memcmp(now.out.raw(), whole.out.raw(), whole.out.bytes()), 0);
    }
    const auto middle = [&](const Tensor& t) { return t.row_range(c.length, c.length); };
    const AttentionOut alone = attention(cpu(), middle(qkv), middle(positions), c.settings());
    test::expect_same_bits(alone.out, middle(whole.out), "a sequence by itself");
    test::expect_same_bits(attention_backward(cpu(), middle(dout), middle(qkv), middle(positions), alone, c.settings()), middle(gradient),
                           "the gradient of a sequence by itself");
    const int threads = omp_get_max_threads();
    for (const int team : {1, 2, 3}) {
      omp_set_num_threads(team);
      test::expect_same_bits(attention(cpu(), qkv, positions, c.settings()).out, whole.out, "threads");
      test::expect_same_bits(attention_backward(cpu(), dout, qkv, positions, whole, c.settings()), gradient, "threads, gradient");
    }
    omp_set_num_threads(threads);
  }
}

TEST(Attention, DocumentsAreSequencesOfTheirOwn) {
  const Case packed{"", {2, 1, 8}, 1, 100, 0.3F, 0, {37}};
  const Tensor qkv = random_tensor({100, packed.heads.columns()}, 1);
  const Tensor out = attention(cpu(), qkv, packed.positions(), packed.settings()).out;
  const Case second{"", packed.heads, 1, 63, packed.scale};
  const Tensor alone = attention(cpu(), qkv.row_range(37, 63), second.positions(), second.settings()).out;
  expect_close(out.row_range(37, 63), to_f64(alone), 1e-6, "the second document");
}

TEST(Attention, CachedRowsAgreeWithWholeSequences) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const float cap : {0.0F, 2.0F}) {
      const Case c{"", {4, 2, 16}, 2, 1140, 0.25F, cap};
      const Tensor qkv = random_tensor({c.rows(), c.heads.columns()}, 1, 1, dtype);
      const Values whole = to_f64(attention(cpu(), qkv, c.positions(), c.settings()).out);
      const Shape shape{2, c.heads.kv_heads, 1150, c.heads.width};
      const Tensor keys = random_tensor(shape, 5, 100, dtype);  // what lies beyond the entries must not matter
      const Tensor values = random_tensor(shape, 6, 100, dtype);
      Index done = 0;
      for (const Index fresh : {70, 1, 1, 65, 3, 900, 1, 99}) {
        Tensor rows(cpu(), {2 * fresh, c.heads.columns()}, dtype);
        Values expected;
        for (Index s = 0; s < 2; ++s) {
          const Tensor part = qkv.row_range(s * c.length + done, fresh);
          std::memcpy(rows.row_range(s * fresh, fresh).raw(), part.raw(), part.bytes());
          const auto start = whole.begin() + (s * c.length + done) * c.heads.heads * c.heads.width;
          expected.insert(expected.end(), start, start + fresh * c.heads.heads * c.heads.width);
        }
        const Tensor before = test::tensor_of({2}, std::vector<int>(2, static_cast<int>(done)));
        cache_append(cpu(), rows, before, c.heads, fresh, keys, values);
        expect_close(attention_cached(cpu(), rows, keys, values, before, c.settings()), expected, dtype == DType::f32 ? 1e-6 : 0x1p-8,
                     "rows from " + std::to_string(done));
        done += fresh;
      }
    }
  }
}

TEST(Attention, CacheHoldsSequencesOfDifferentLengths) {
  const Heads heads{2, 1, 8};
  const Tensor keys = Tensor::zeros(cpu(), {2, 1, 20, 8});
  const Tensor values = Tensor::zeros(cpu(), {2, 1, 20, 8});
  const Tensor first = random_tensor({2 * 9, heads.columns()}, 1);
  cache_append(cpu(), first, test::tensor_of({2}, std::vector<int>{0, 0}), heads, 9, keys, values);
  const Tensor one = random_tensor({2, heads.columns()}, 2);
  const Tensor before = test::tensor_of({2}, std::vector<int>{9, 4});  // the second sequence goes on from its fourth entry
  cache_append(cpu(), one, before, heads, 1, keys, values);
  const Tensor out = attention_cached(cpu(), one, keys, values, before, {heads, 0, 0.4F, 0});
  Tensor qkv(cpu(), {5, heads.columns()});
  std::memcpy(qkv.raw(), first.row_range(9, 4).raw(), first.row_range(9, 4).bytes());
  std::memcpy(qkv.row_range(4, 1).raw(), one.row_range(1, 1).raw(), one.row_range(1, 1).bytes());
  const Case c{"", heads, 1, 5, 0.4F};
  expect_close(out.row_range(1, 1), to_f64(attention(cpu(), qkv, c.positions(), c.settings()).out.row_range(4, 1)), 1e-6,
               "a short sequence");
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const Case c{"", {4, 2, 8}, 1, 10};
  const Tensor qkv = random_tensor({10, c.heads.columns()}, 1);
  EXPECT_THROW((void)attention(cpu(), qkv, c.positions(), {{3, 2, 8}, 10}), Error);
  EXPECT_THROW((void)attention(cpu(), qkv, c.positions(), {c.heads, 3}), Error);
  EXPECT_THROW((void)attention(cpu(), qkv, random_tensor({10}, 1), c.settings()), Error);
  EXPECT_THROW((void)attention(cpu(), qkv, test::tensor_of({10}, std::vector<int>(10, 1)), c.settings()), Error)
      << "row 0 has nothing before it";
  EXPECT_THROW((void)attention(cpu(), qkv, test::tensor_of({10}, std::vector<int>(10, -1)), c.settings()), Error);
  const Tensor cache = Tensor::zeros(cpu(), {1, 2, 12, 8});
  EXPECT_THROW(cache_append(cpu(), qkv, test::tensor_of({1}, std::vector<int>{3}), c.heads, 10, cache, cache), Error);
  EXPECT_THROW((void)attention_cached(cpu(), qkv, cache, cache, test::tensor_of({1}, std::vector<int>{3}), c.settings()), Error);
  EXPECT_THROW(rotary(cpu(), random_tensor({10, 21}, 1), c.positions(), {1, 1, 7}, 1e4F, 1), Error);
}

TEST(Attention, NoRowsAreNoWork) {
  const Case c{"", {4, 2, 8}, 0, 10};
  const Tensor qkv = Tensor::zeros(cpu(), {0, c.heads.columns()});
  const AttentionOut forward = attention(cpu(), qkv, c.positions(), c.settings());
  EXPECT_EQ(forward.out.rows(), 0);
  EXPECT_EQ(attention_backward(cpu(), forward.out, qkv, c.positions(), forward, c.settings()).rows(), 0);
}

Values rotary_f64(const Values& qkv, const Values& positions, const Heads& heads, double base, double direction) {
  Values result = qkv;
  const auto half = static_cast<std::size_t>(heads.width / 2);
  for (std::size_t n = 0; n < positions.size(); ++n) {
    for (Index head = 0; head < heads.heads + heads.kv_heads; ++head) {
      const auto at = n * static_cast<std::size_t>(heads.columns()) + static_cast<std::size_t>(head * heads.width);
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = direction * positions[n] * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(heads.width));
        result[at + i] = qkv[at + i] * std::cos(angle) - qkv[at + half + i] * std::sin(angle);
        result[at + half + i] = qkv[at + half + i] * std::cos(angle) + qkv[at + i] * std::sin(angle);
      }
    }
  }
  return result;
}

TEST(Rotary, AgreesWithLoops) {
  const Heads heads{3, 1, 20};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const float base : {1e4F, 1e6F}) {
      for (const float direction : {1.0F, -1.0F}) {
        const Tensor qkv = random_tensor({90, heads.columns()}, 1, 1, dtype);
        const Tensor positions = test::random_integers({90}, 2, 0, 50);
        const Values expected =
            rotary_f64(to_f64(qkv), to_f64(positions), heads, static_cast<double>(base), static_cast<double>(direction));
        rotary(cpu(), qkv, positions, heads, base, direction);
        expect_close(qkv, expected, dtype == DType::f32 ? 1e-5 : 0x1p-8 + 1e-5, "rotary");
      }
    }
  }
}

TEST(Rotary, TurnsBackAndNeedsNoEarlierPosition) {
  const Heads heads{2, 2, 8};
  const Tensor qkv = random_tensor({3, heads.columns()}, 1);
  const Values before = to_f64(qkv);
  const Tensor far = test::tensor_of({3}, std::vector<int>{700, 3, 701});
  rotary(cpu(), qkv, far, heads, 1e4F, 1);
  EXPECT_GT(test::relative_error(to_f64(qkv), before), 0.1);
  rotary(cpu(), qkv, far, heads, 1e4F, -1);
  expect_close(qkv, before, 1e-6, "turned there and back");
}

}  // namespace
}  // namespace yard::ops
