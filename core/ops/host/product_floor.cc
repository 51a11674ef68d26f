#include "core/ops/host/product_floor.h"

#include <dlfcn.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <dnnl.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "core/handle.h"
#include "core/profiler.h"

namespace yard::ops::host {
namespace {

struct LibraryTraits {
  using Type = void*;
  static Type null() { return nullptr; }
  static void destroy(Type library) noexcept { ::dlclose(library); }
};
using Library = Handle<LibraryTraits>;

using CblasSgemm = void (*)(int order, int a_is, int b_is, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                            int ldb, float beta, float* c, int ldc);
constexpr int kRowMajor = 101;
constexpr int kPlain = 111;

/// The operands of one product.
struct Operands {
  FloorProduct shape;
  Tensor a, b, c;
};

Tensor filled(Stream& stream, Index rows, Index cols, DType dtype) {
  Tensor tensor(stream, {rows, cols}, dtype);
  with_float_type(dtype, [&](auto type) {
    std::uint32_t state = 12345;
    for (auto& value : tensor.values<decltype(type)>()) {
      state = state * 1664525U + 1013904223U;  // Numerical Recipes: any values with full mantissas serve
      value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
    }
  });
  return tensor;
}

/// A way to compute one product; called from one thread, which may have others below it.
using Compute = std::function<void(std::size_t product)>;

struct Candidate {
  std::string name;
  Compute compute;
};

dnnl::memory::data_type type_of(DType dtype) { return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32; }

/// oneDNN's matmul of each product, weights plain or in the layout that it likes.
class Matmul {
 public:
  Matmul(const std::vector<Operands>& operands, DType dtype, bool packed) {
    using dnnl::memory;
    for (const Operands& each : operands) {
      const auto type = type_of(dtype);
      const memory::desc a({each.shape.m, each.shape.k}, type, memory::format_tag::ab);
      const memory::desc plain({each.shape.k, each.shape.n}, type, memory::format_tag::ab);
      const memory::desc b({each.shape.k, each.shape.n}, type, packed ? memory::format_tag::any : memory::format_tag::ab);
      const memory::desc c({each.shape.m, each.shape.n}, type, memory::format_tag::ab);
      const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), engine_);
      Prepared prepared{dnnl::matmul(description), dnnl::memory(a, engine_, each.a.raw()), dnnl::memory(plain, engine_, each.b.raw()),
                        dnnl::memory(c, engine_, each.c.raw())};
      if (description.weights_desc() != plain) {
        dnnl::memory laid_out(description.weights_desc(), engine_);
        dnnl::stream stream(engine_);
        dnnl::reorder(prepared.b, laid_out).execute(stream, prepared.b, laid_out);
        stream.wait();
        prepared.b = laid_out;
      }
      prepared_.push_back(std::move(prepared));
    }
  }
  void operator()(std::size_t product) const {
    const Prepared& each = prepared_[product];
    dnnl::stream stream(engine_);
    each.primitive.execute(stream, {{DNNL_ARG_SRC, each.a}, {DNNL_ARG_WEIGHTS, each.b}, {DNNL_ARG_DST, each.c}});
    stream.wait();
  }

 private:
  struct Prepared {
    dnnl::matmul primitive;
    dnnl::memory a, b, c;
  };
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::vector<Prepared> prepared_;
};

/// The median time of all products, the candidate's way: one after the other, or each on a thread of its own.
double seconds_of(const Candidate& candidate, std::size_t products, bool side_by_side, int repeat) {
  std::vector<double> times;
  for (int run = -1; run < repeat; ++run) {
    const auto start = Clock::now();
    if (side_by_side) {
#pragma omp parallel for schedule(dynamic)
      for (std::size_t i = 0; i < products; ++i) candidate.compute(i);
    } else {
      for (std::size_t i = 0; i < products; ++i) candidate.compute(i);
    }
    if (run >= 0) times.push_back(seconds_between(start, Clock::now()));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace

Floor product_floor(Stream& stream, std::span<const FloorProduct> products, DType dtype, int repeat) {
  check(dtype == DType::f32 || dtype == DType::bf16, "a floor is of f32 or bf16, not ", name_of(dtype));
  std::vector<Operands> operands;
  for (const FloorProduct& shape : products) {
    if (shape.m == 0 || shape.n == 0 || shape.k == 0) continue;
    operands.push_back({shape, filled(stream, shape.m, shape.k, dtype), filled(stream, shape.k, shape.n, dtype),
                        Tensor(stream, {shape.m, shape.n}, dtype)});
  }
  Floor floor{INFINITY, ""};
  if (operands.empty()) return {0, "nothing"};
  std::vector<Candidate> candidates;
  std::vector<Library> libraries;
  if (dtype == DType::f32) {
    candidates.push_back({"oneDNN sgemm", [&](std::size_t i) {
                            const Operands& each = operands[i];
                            dnnl_sgemm('N', 'N', each.shape.m, each.shape.n, each.shape.k, 1, each.a.data<float>(), each.shape.k,
                                       each.b.data<float>(), each.shape.n, 0, each.c.data<float>(), each.shape.n);
                          }});
    for (const auto& [name, file] : {std::pair{"OpenBLAS", "libopenblas.so.0"}, {"BLIS", "libblis.so.4"}}) {
      Library library(::dlopen(file, RTLD_NOW | RTLD_LOCAL));
      if (!library) continue;
      const auto sgemm = reinterpret_cast<CblasSgemm>(::dlsym(library.get(), "cblas_sgemm"));
      if (sgemm == nullptr) continue;
      for (const char* setter : {"openblas_set_num_threads", "bli_thread_set_num_threads"}) {
        if (void* const set = ::dlsym(library.get(), setter); set != nullptr) {
          name == std::string("BLIS") ? reinterpret_cast<void (*)(std::int64_t)>(set)(omp_get_max_threads())
                                      : reinterpret_cast<void (*)(int)>(set)(omp_get_max_threads());
        }
      }
      candidates.push_back({name, [&operands, sgemm](std::size_t i) {
                              const Operands& each = operands[i];
                              const auto n = static_cast<int>(each.shape.n);
                              const auto k = static_cast<int>(each.shape.k);
                              sgemm(kRowMajor, kPlain, kPlain, static_cast<int>(each.shape.m), n, k, 1, each.a.data<float>(), k,
                                    each.b.data<float>(), n, 0, each.c.data<float>(), n);
                            }});
      libraries.push_back(std::move(library));
    }
  }
  candidates.push_back({"oneDNN matmul", Matmul(operands, dtype, false)});
  candidates.push_back({"oneDNN matmul, packed", Matmul(operands, dtype, true)});
  for (const Candidate& candidate : candidates) {
    for (const bool side_by_side : {false, true}) {
      if (side_by_side && operands.size() < 2) continue;
      const double seconds = seconds_of(candidate, operands.size(), side_by_side, repeat);
      if (seconds < floor.seconds) floor = {seconds, candidate.name + (side_by_side ? ", products side by side" : "")};
    }
  }
  return floor;
}

}  // namespace yard::ops::host
