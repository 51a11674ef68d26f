#include "core/ops/matmul.h"

#include <omp.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <numeric>
#include <thread>

#include "core/device/cpu.h"
#include "core/ops/host/gemm.h"
#include "core/ops/host/tasks.h"
#include "tests/support/support.h"

namespace yard::ops {
namespace {

using test::cpu;
using test::random_tensor;
using Values = std::vector<double>;

struct Case {
  std::string name;
  Index in, out;
  std::vector<Index> rows;
  Index total() const { return std::accumulate(rows.begin(), rows.end(), Index{0}); }
  Index groups() const { return static_cast<Index>(rows.size()); }
};

std::vector<Case> cases() {
  return {{"one row", 24, 40, {1}},
          {"dense", 96, 72, {150}},
          {"many rows", 40, 24, {3000}},
          {"several panels", 640, 1100, {70}},
          {"more rows than one product sums", 24, 100, {2300, 1100}},
          {"wide result", 16, 2500, {19}},
          {"deep", 2300, 12, {33}},
          {"router", 64, 8, {200}},
          {"odd sizes", 13, 7, {5, 129, 2}},
          {"uneven groups", 48, 56, {0, 64, 1, 0, 17, 128, 31, 0}},
          {"tiny groups", 32, 16, {1, 2, 0, 3, 8, 0, 0, 1, 5, 0, 4}},
          {"no rows", 32, 16, {0, 0, 0}}};
}

/// The group of each row.
std::vector<Index> group_of_rows(const Case& c) {
  std::vector<Index> result;
  for (Index group = 0; group < c.groups(); ++group)
    result.insert(result.end(), static_cast<std::size_t>(c.rows[static_cast<std::size_t>(group)]), group);
  return result;
}

// The plain loops: y = x W^T, dx = dy W, dW = dy^T x.
Values forward_f64(const Case& c, const Values& x, const Values& w) {
  const auto group = group_of_rows(c);
  Values y(group.size() * static_cast<std::size_t>(c.out));
  for (std::size_t n = 0; n < group.size(); ++n) {
    for (Index o = 0; o < c.out; ++o) {
      double sum = 0;
      for (Index i = 0; i < c.in; ++i)
        sum += x[n * static_cast<std::size_t>(c.in) + static_cast<std::size_t>(i)] *
               w[static_cast<std::size_t>((group[n] * c.out + o) * c.in + i)];
      y[n * static_cast<std::size_t>(c.out) + static_cast<std::size_t>(o)] = sum;
    }
  }
  return y;
}

struct Gradients {
  Values dx, dw;
};
Gradients backward_f64(const Case& c, const Values& dy, const Values& x, const Values& w) {
  const auto group = group_of_rows(c);
  Gradients result{Values(x.size()), Values(w.size())};
  for (std::size_t n = 0; n < group.size(); ++n) {
    for (Index o = 0; o < c.out; ++o) {
      const double d = dy[n * static_cast<std::size_t>(c.out) + static_cast<std::size_t>(o)];
      for (Index i = 0; i < c.in; ++i) {
        const auto at = n * static_cast<std::size_t>(c.in) + static_cast<std::size_t>(i);
        const auto weight = static_cast<std::size_t>((group[n] * c.out + o) * c.in + i);
        result.dx[at] += d * w[weight];
        result.dw[weight] += d * x[at];
      }
    }
  }
  return result;
}

/// Forward and gradients of every case against the loops; `bound` of what is stored in the values' type, f32 sums always to 1e-5.
void check_against_loops(DType dtype, double bound) {
  for (const Case& c : cases()) {
    const Tensor x = random_tensor({c.total(), c.in}, 1, 1, dtype);
    const Tensor w = random_tensor({c.groups() * c.out, c.in}, 2, 1, dtype);
    const Tensor dy = random_tensor({c.total(), c.out}, 3, 1, dtype);
    const Tensor dw = random_tensor({c.groups() * c.out, c.in}, 4);
    const Values before = test::to_f64(dw);
    const Weights weights(w, c.groups());
    const Values y = forward_f64(c, test::to_f64(x), test::to_f64(w));
    auto [dx, added] = backward_f64(c, test::to_f64(dy), test::to_f64(x), test::to_f64(w));
    test::expect_close(matmul(cpu(), x, weights, c.rows, dtype), y, bound, c.name + ", y");
    test::expect_close(matmul(cpu(), x, weights, c.rows, DType::f32), y, 1e-5, c.name + ", y in f32");
    test::expect_close(matmul_backward_input(cpu(), dy, weights, c.rows, dtype), dx, bound, c.name + ", dx");
    test::expect_close(matmul_backward_input(cpu(), dy, weights, c.rows, DType::f32), dx, 1e-5, c.name + ", dx in f32");
    test::expect_close(matmul_by_row(cpu(), x, w, c.rows, dtype), y, bound, c.name + ", y by row");
    test::expect_close(matmul_by_row(cpu(), x, w, c.rows, DType::f32), y, 1e-5, c.name + ", y by row in f32");
    for (std::size_t i = 0; i < added.size(); ++i) added[i] += before[i];
    matmul_backward_weight(cpu(), dy, x, c.rows, dw);
    test::expect_close(dw, added, 1e-5, c.name + ", dw");
  }
}

TEST(Matmul, LoopsOfTheTestAreRight) {
  const Case c{"small", 3, 2, {2, 0, 1}};
  const Values x = test::to_f64(random_tensor({3, 3}, 1));
  const Values w = test::to_f64(random_tensor({6, 3}, 2));
  const Values dy = test::to_f64(random_tensor({3, 2}, 3));
  const auto [dx, dw] = backward_f64(c, dy, x, w);
  const auto loss = [&](const Values& some_x, const Values& some_w) {
    const Values y = forward_f64(c, some_x, some_w);
    return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0);
  };
  test::expect_close(dx, test::numeric_gradient([&](const Values& v) { return loss(v, w); }, x), 1e-7, "dx");
  test::expect_close(dw, test::numeric_gradient([&](const Values& v) { return loss(x, v); }, w), 1e-7, "dw");
}

TEST(Matmul, AgreesWithLoopsInF32) { check_against_loops(DType::f32, 1e-5); }

// Products of bf16 values are exact in f32: what remains is the rounding of the result, 2^-8 of each value.
TEST(Matmul, AgreesWithLoopsInBf16) { check_against_loops(DType::bf16, 0x1p-8 + 1e-5); }

TEST(Matmul, Bf16WithoutHardware) {
  if (std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr) GTEST_SKIP() << "this is the inner run";
  const auto run = test::run_command("ONEDNN_MAX_CPU_ISA=AVX2 /proc/" + std::to_string(getpid()) +
                                     "/exe --gtest_filter=Matmul.AgreesWithLoops*:Matmul.PollErrors*");
  EXPECT_EQ(run.code, 0) << run.out << run.err;
  EXPECT_NE(run.out.find("[  PASSED  ] 3 tests"), std::string::npos) << run.out;
}

TEST(Matmul, MixedTypesAreStoredAsAsked) {
  const Tensor x = random_tensor({37, 48}, 1);
  const Weights weights(random_tensor({20, 48}, 2), 1);
  const Index rows = 37;
  const Tensor y = matmul(cpu(), x, weights, {&rows, 1}, DType::bf16);
  ASSERT_EQ(y.dtype(), DType::bf16);
  test::expect_close(y, test::to_f64(matmul(cpu(), x, weights)), 0x1p-8 + 1e-6, "an f32 product stored as bf16");
}

TEST(Matmul, RefreshSeesNewValues) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor value = random_tensor({20, 16}, 1, 1, dtype);
    Weights weights(value, 2);
    const Tensor x = random_tensor({4, 16}, 2, 1, dtype);
    const Tensor other = random_tensor({20, 16}, 3, 1, dtype);
    std::memcpy(value.raw(), other.raw(), value.bytes());
    weights.refresh();
    const std::vector<Index> rows{1, 3};
    test::expect_same_bits(matmul(cpu(), x, weights, rows, dtype), matmul(cpu(), x, Weights(other, 2), rows, dtype), "refreshed");
  }
}

TEST(Matmul, ByRowDependsOnTheRowAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = random_tensor({40, 77}, 1, 1, dtype);
    const Tensor w = random_tensor({3 * 50, 77}, 2, 1, dtype);
    const std::vector<Index> all{0, 40, 0};
    const Tensor y = matmul_by_row(cpu(), x, w, all, DType::f32);
    const int threads = omp_get_max_threads();
    for (const Index first : {0, 13, 39}) {
      omp_set_num_threads(first == 13 ? 3 : 1);
      const std::vector<Index> one{0, 1, 0};
      test::expect_same_bits(matmul_by_row(cpu(), x.row_range(first, 1), w, one, DType::f32), y.row_range(first, 1), "a row alone");
    }
    omp_set_num_threads(threads);
  }
}

/// Rows keep their bits whatever comes along; false where a library breaks that.
bool rows_keep_their_bits(DType dtype, Index in, Index out) {
  constexpr Index kRows = 300;
  const int threads = omp_get_max_threads();
  const Tensor x = random_tensor({kRows, in}, 1, 1, dtype);
  const Tensor w = random_tensor({3 * out, in}, 2, 0.1F, dtype);
  const Tensor dy = random_tensor({kRows, out}, 3, 1, dtype);
  const Weights one(w.row_range(out, out), 1);
  const Weights three(w, 3);
  const Tensor y = matmul(cpu(), x, one);
  const Tensor dx = matmul_backward_input(cpu(), dy, one);
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
  };
  bool kept = true;
  for (const auto& [first, count] : std::vector<std::pair<Index, Index>>{{0, 1},
                                                                         {7, 2},
                                                                         {299, 1},
                                                                         {0, 15},
                                                                         {1, 16},
                                                                         {3, 31},
                                                                         {0, 47},
                                                                         {5, 63},
                                                                         {9, 64},
                                                                         {2, 65},
                                                                         {11, 100},
                                                                         {0, 128},
                                                                         {50, 129},
                                                                         {1, 299}}) {
    const Tensor some = x.row_range(first, count);
    const Tensor dsome = dy.row_range(first, count);
    kept &= same(matmul(cpu(), some, one), y.row_range(first, count));
    kept &= same(matmul_backward_input(cpu(), dsome, one), dx.row_range(first, count));
    // The same rows as the middle group of three, with neighbours that have rows of their own.
    Tensor longer(cpu(), {count + 30, in}, dtype);
    std::memcpy(longer.raw(), x.raw(), x.row_range(0, 13).bytes());
    std::memcpy(longer.row_range(13, count).raw(), some.raw(), some.bytes());
    std::memcpy(longer.row_range(13 + count, 17).raw(), x.raw(), x.row_range(0, 17).bytes());
    const std::vector<Index> rows{13, count, 17};
    kept &= same(matmul(cpu(), longer, three, rows, dtype).row_range(13, count), y.row_range(first, count));
  }
  for (const int team : {1, 2, 3}) {
    omp_set_num_threads(team);
    kept &= same(matmul(cpu(), x, one), y) && same(matmul_backward_input(cpu(), dy, one), dx);
    const Tensor dw = Tensor::zeros(cpu(), {out, in});
    const Index rows = kRows;
    matmul_backward_weight(cpu(), dy, x, {&rows, 1}, dw);
    omp_set_num_threads(1);
    const Tensor again = Tensor::zeros(cpu(), {out, in});
    matmul_backward_weight(cpu(), dy, x, {&rows, 1}, again);
    kept &= same(dw, again);
  }
  omp_set_num_threads(threads);
  return kept;
}

/// Whether the library's own products of 16 rows and of a whole tile agree: what the products of this file are made of.
bool library_keeps_bits(DType dtype, Index in, Index out) {
  const bool narrow = dtype == DType::bf16 && host::multiplies_bf16();
  constexpr Index kRows = 128;
  const Tensor x = random_tensor({kRows, in}, 1, 1, narrow ? DType::bf16 : DType::f32);
  const Tensor w = random_tensor({in, out}, 2, 1, x.dtype());
  auto& products = cpu().kept<host::Bf16Products>();
  std::vector<std::byte> packed(narrow ? products.packed_bytes(in, out) : 0);
  if (narrow) products.pack(in, out, w.data<BFloat16>(), out, 1, packed.data());
  host::Bf16Runner runner(cpu());
  const auto product = [&](Index piece) {
    const Tensor y(cpu(), {kRows, out});
    host::run_tasks(kRows / piece, [&](Index i, int) {
      float* const to = y.data<float>() + i * piece * out;
      if (narrow) {
        const host::Bf16Shape shape{.m = piece, .n = out, .k = in, .b_is = host::Operand::packed, .out = DType::f32};
        runner.run(shape, x.data<BFloat16>() + i * piece * in, packed.data(), to);
      } else {
        const float* const from = x.data<float>() + i * piece * in;
        host::sgemm(host::Operand::plain, host::Operand::plain, piece, out, in, 1, from, in, w.data<float>(), out, 0, to, out);
      }
    });
    return y;
  };
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensor whole = product(64);
  const Tensor pieces = product(16);
  omp_set_num_threads(threads);
  return std::memcmp(whole.raw(), pieces.raw(), whole.bytes()) == 0;
}

void check_rows(DType dtype) {
  bool library_kept = true;
  bool kept = true;
  for (const auto& [in, out] : std::vector<std::pair<Index, Index>>{{64, 8}, {384, 256}, {100, 1100}, {1024, 1100}, {1500, 48}}) {
    library_kept &= library_keeps_bits(dtype, in, std::min<Index>(out, 384));
    const bool here = rows_keep_their_bits(dtype, in, out);
    if (!here) std::cout << name_of(dtype) << " rows of " << in << " -> " << out << " depend on their neighbours\n";
    kept &= here;
  }
  if (!library_kept) {
    EXPECT_EQ(rows_are_invariant(cpu(), dtype), kept);
    GTEST_SKIP() << "on this processor (" << processor_name() << ") the library's products of " << name_of(dtype)
                 << " rows agree to rounding only, and the program says so";
  }
  EXPECT_TRUE(kept);
  EXPECT_TRUE(rows_are_invariant(cpu(), dtype));
}

TEST(Matmul, RowsDoNotDependOnTheirNeighboursInF32) { check_rows(DType::f32); }
TEST(Matmul, RowsDoNotDependOnTheirNeighboursInBf16) { check_rows(DType::bf16); }

TEST(Matmul, PollsAndGivesThreadsBack) {
  const int threads = omp_get_max_threads();
  const Tensor x = random_tensor({500, 64}, 1);
  const Weights weights(random_tensor({600, 64}, 2), 1);
  const Index rows = 500;
  const auto caller = std::this_thread::get_id();
  int polls = 0;
  omp_set_num_threads(1);  // so that the calling thread surely has a task
  (void)matmul(cpu(), x, weights, {&rows, 1}, DType::f32, [&] {
    ++polls;
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
  EXPECT_GT(polls, 0);
  EXPECT_EQ(omp_get_max_threads(), 1);
  omp_set_num_threads(threads);
  (void)matmul(cpu(), x, weights);
  EXPECT_EQ(omp_get_max_threads(), threads);
}

TEST(Matmul, PollErrorsReachTheCaller) {
  const Tensor x = random_tensor({500, 64}, 1);
  const Weights weights(random_tensor({600, 64}, 2), 1);
  const Index rows = 500;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  EXPECT_THROW((void)matmul(cpu(), x, weights, {&rows, 1}, DType::f32, [] { fail("the transfer broke"); }), Error);
  omp_set_num_threads(threads);
}

TEST(Matmul, RefusesWhatDoesNotFit) {
  const Weights weights(random_tensor({20, 16}, 1), 2);
  const std::vector<Index> rows{1, 2};
  EXPECT_THROW((void)matmul(cpu(), random_tensor({3, 15}, 1), weights, rows, DType::f32), Error);
  EXPECT_THROW((void)matmul(cpu(), random_tensor({4, 16}, 1), weights, rows, DType::f32), Error);
  EXPECT_THROW((void)matmul(cpu(), random_tensor({3, 16}, 1), weights), Error);
  EXPECT_THROW((void)matmul(cpu(), random_tensor({3, 16}, 1, 1, DType::bf16), weights, rows, DType::f32), Error);
  EXPECT_THROW((void)matmul(cpu(), random_tensor({3, 16}, 1), weights, rows, DType::i32), Error);
  EXPECT_THROW((void)matmul(cpu(), random_tensor({1, 16}, 1), weights, std::vector<Index>{2, -1}, DType::f32), Error);
  EXPECT_THROW((void)matmul_backward_input(cpu(), random_tensor({3, 16}, 1), weights, rows, DType::f32), Error);
  EXPECT_THROW(matmul_backward_weight(cpu(), random_tensor({3, 10}, 1), random_tensor({3, 16}, 1), rows, random_tensor({10, 16}, 1)),
               Error);
  EXPECT_THROW(Weights(random_tensor({21, 16}, 1), 2), Error);
}

TEST(Processor, SaysWhatItIs) {
  EXPECT_FALSE(processor_name().empty());
  EXPECT_TRUE(has_fast_bf16() || !has_amx_bf16()) << "AMX-BF16 is fast bf16";
}

}  // namespace
}  // namespace yard::ops
