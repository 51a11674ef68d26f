#pragma once

#include <compare>
#include <map>
#include <memory>
#include <shared_mutex>

#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// Products that one thread computes, of row-major matrices at a distance of ld values a row. Callers share out the tiles (run_tasks).

enum class Operand : std::uint8_t { plain, transposed };  // transposed: stored as (columns, rows)

/// C = alpha A B + beta C in f32.                                    A: (m, k)  B: (k, n)  C: (m, n)
void sgemm(Operand a_is, Operand b_is, Index m, Index n, Index k, float alpha, const float* a, Index lda, const float* b, Index ldb,
           float beta, float* c, Index ldc);

/// Whether the library multiplies bf16 in hardware here; elsewhere converting to f32 is several times faster than its emulation.
bool multiplies_bf16();

/// A product of bf16 matrices with f32 accumulation, C = A B or C += A B. All three are dense: with rows further apart than their length
/// the library falls back to loops that are a hundred times slower.
struct Bf16Shape {
  Index m = 0, n = 0, k = 0;
  Operand a_is = Operand::plain;
  bool b_is_packed = false;  // laid out by Bf16Products::pack
  DType out = DType::bf16;   // of C
  bool accumulate = false;
  auto operator<=>(const Bf16Shape&) const = default;
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

/// One thread's runs: keeps the arguments of the last product, since the next is mostly the same.
class Bf16Runner {
 public:
  explicit Bf16Runner(Stream& stream) : stream_(&stream) {}
  void run(const Bf16Product& product, const BFloat16* a, const void* b, void* c) {
    if (product_ != &product) {
      arguments_ = product.arguments(*stream_);
      product_ = &product;
    }
    product.run(*arguments_, a, b, c);
  }

 private:
  Stream* stream_;
  const Bf16Product* product_ = nullptr;
  std::unique_ptr<Bf16Product::Arguments> arguments_;
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

}  // namespace yard::ops::host
