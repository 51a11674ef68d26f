#pragma once

#include <compare>
#include <map>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "core/ops/host/tasks.h"
#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// Products that one thread computes, of row-major matrices at a distance of ld values a row. Callers share out the tiles (run_tasks).

enum class Operand : std::uint8_t { plain, transposed, packed };  // transposed: stored as (columns, rows); packed: by Bf16Products::pack

/// C = alpha A B + beta C in f32.                                    A: (m, k)  B: (k, n)  C: (m, n)
void sgemm(Operand a_is, Operand b_is, Index m, Index n, Index k, float alpha, const float* a, Index lda, const float* b, Index ldb,
           float beta, float* c, Index ldc);

/// Whether the library multiplies bf16 in hardware here; elsewhere converting to f32 is several times faster than its emulation.
bool multiplies_bf16();

/// A product of bf16 matrices with f32 accumulation, C = A B or C += A B. All three are dense: with rows further apart than their length
/// the library falls back to loops that are a hundred times slower.
struct Bf16Shape {
  Index m = 0, n = 0, k = 0;
  Operand a_is = Operand::plain, b_is = Operand::plain;
  DType out = DType::bf16;  // of C
  bool accumulate = false;
  auto operator<=>(const Bf16Shape&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 trips over the default
};

/// A compiled product; may run on many threads at once.
class Bf16Product {
 public:
  /// What one thread needs to run it, made once for many runs.
  class Arguments {
   public:
    virtual ~Arguments() = default;
  };
  virtual ~Bf16Product() = default;
  virtual std::unique_ptr<Arguments> arguments(Stream&) const = 0;
  virtual void run(Arguments&, const BFloat16* a, const void* b, void* c) const = 0;
};

/// The compiled products of a stream by shape: compiling one costs as much as running it many times. Safe to use from several threads.
class Bf16Products {
 public:
  Bf16Products();
  ~Bf16Products();
  Bf16Products(const Bf16Products&) = delete;
  Bf16Products& operator=(const Bf16Products&) = delete;

  const Bf16Product& of(const Bf16Shape& shape);
  /// Bytes of a (k, n) operand B laid out as the processor likes it best, a multiple of 64.
  std::size_t packed_bytes(Index k, Index n);
  /// Lays out B; its entry (i, j) is read from b[i * row_step + j * column_step], one of the two steps being 1.
  void pack(Index k, Index n, const BFloat16* b, Index row_step, Index column_step, void* packed);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  std::shared_mutex mutex_;
  std::map<Bf16Shape, std::unique_ptr<Bf16Product>> products_;
};

/// One thread's runs: keeps the arguments of each product that it has met.
class Bf16Runner {
 public:
  explicit Bf16Runner(Stream& stream) : stream_(&stream), products_(&stream.kept<Bf16Products>()) {}
  void run(const Bf16Shape& shape, const BFloat16* a, const void* b, void* c) {
    if (met_.empty() || met_[last_].shape != shape) find(shape);
    met_[last_].product->run(*met_[last_].arguments, a, b, c);
  }

 private:
  struct Met {
    Bf16Shape shape;
    const Bf16Product* product;
    std::unique_ptr<Bf16Product::Arguments> arguments;
  };
  void find(const Bf16Shape& shape);
  Stream* stream_;
  Bf16Products* products_;
  std::vector<Met> met_;
  std::size_t last_ = 0;
};

/// One thread's products C = A B or C += A B of dense matrices of V, float or BFloat16, with C in f32.
template <class V>
class DenseProducts;

template <>
class DenseProducts<float> {
 public:
  explicit DenseProducts(Stream&) {}
  void multiply(Operand a_is, Operand b_is, Index m, Index n, Index k, const float* a, const float* b, float* c, bool accumulate) const {
    sgemm(a_is, b_is, m, n, k, 1, a, a_is == Operand::plain ? k : m, b, b_is == Operand::plain ? n : k, accumulate ? 1.0F : 0.0F, c, n);
  }
};

template <>
class DenseProducts<BFloat16> {
 public:
  explicit DenseProducts(Stream& stream) : runner_(stream) {}
  void multiply(Operand a_is, Operand b_is, Index m, Index n, Index k, const BFloat16* a, const BFloat16* b, float* c, bool accumulate) {
    runner_.run({.m = m, .n = n, .k = k, .a_is = a_is, .b_is = b_is, .out = DType::f32, .accumulate = accumulate}, a, b, c);
  }

 private:
  Bf16Runner runner_;
};

template <class Runner>
std::vector<Runner> one_for_each_thread(Stream& stream) {
  std::vector<Runner> result;
  for (int thread = 0; thread < team_size(); ++thread) result.emplace_back(stream);
  return result;
}

}  // namespace yard::ops::host
