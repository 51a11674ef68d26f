#pragma once

#include <cublas_v2.h>

#include "core/handle.h"
#include "core/ops/gpu.h"

namespace yard::ops::kernels {

inline void check_cublas(cublasStatus_t status, const char* doing) {
  check(status == CUBLAS_STATUS_SUCCESS, doing, " failed in cuBLAS: ", cublasGetStatusString(status));
}

struct CublasTraits {
  using Type = cublasHandle_t;
  static Type null() { return nullptr; }
  static void destroy(Type handle) noexcept { (void)cublasDestroy(handle); }
};

/// cuBLAS on one stream, kept by it. A workspace of its own keeps its results the same from run to run while other streams multiply too.
class Cublas {
 public:
  cublasHandle_t on(Stream& stream) {
    if (handle_) return handle_.get();
    cublasHandle_t handle = nullptr;
    check_cublas(cublasCreate(&handle), "starting");
    handle_ = Handle<CublasTraits>(handle);
    check_cublas(cublasSetStream(handle, native(stream)), "taking a stream");
    // Sums of bf16 products stay in f32 also where a product is split along k.
    check_cublas(
        cublasSetMathMode(handle, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
        "setting the precision");
    workspace_ = Buffer(stream.allocator(), kWorkspace);
    check_cublas(cublasSetWorkspace(handle, workspace_.data(), kWorkspace), "setting the workspace");
    return handle;
  }

 private:
  static constexpr std::size_t kWorkspace = std::size_t{32} << 20;  // what cuBLAS asks for on H100; less would forbid some of its kernels
  Buffer workspace_;
  Handle<CublasTraits> handle_;  // goes first: it waits for the products that use the workspace
};

/// A row-major product C = factor A B, or C += factor A B.             A: (m, k)  B: (k, n)  C: (m, n)
struct Product {
  Index m = 0, n = 0, k = 0;
  const void* a = nullptr;
  bool a_transposed = false;  // stored as (k, m)
  const void* b = nullptr;
  bool b_transposed = false;  // stored as (n, k)
  void* c = nullptr;
  float factor = 1;
  Index a_distance = 0, b_distance = 0, c_distance = 0;  // values from one stored row to the next; 0 where they lie without gaps
  Index batch = 1, a_step = 0, b_step = 0, c_step = 0;   // so many products, their matrices so many values apart
};

struct ProductTypes {
  DType in, out;
  bool accumulate = false;
};

inline cudaDataType type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// The same product as cuBLAS sees it. A row-major matrix is the column-major matrix of its transpose, and C^T = B^T A^T: so the operands
/// change places, and whether one is transposed stays as it is. The only place that knows of column-major.
struct ColumnMajor {
  cublasOperation_t first_is, second_is;
  int m, n, k;
  const void *first, *second;
  int first_distance, second_distance;
  void* result;
  int result_distance;

  explicit ColumnMajor(const Product& p)
      : first_is(p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
        second_is(p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
        m(narrow(p.n)),
        n(narrow(p.m)),
        k(narrow(p.k)),
        first(p.b),
        second(p.a),
        first_distance(distance(p.b_distance, p.b_transposed ? p.k : p.n)),
        second_distance(distance(p.a_distance, p.a_transposed ? p.m : p.k)),
        result(p.c),
        result_distance(distance(p.c_distance, p.n)) {}

 private:
  static int narrow(Index extent) {
    check(extent <= 0x7fffffff, "a matrix of a product on the GPU has at most 2^31 - 1 rows and columns, got ", extent);
    return static_cast<int>(extent);
  }
  static int distance(Index given, Index dense) { return narrow(given == 0 ? dense : given); }
};

inline void multiply(cublasHandle_t handle, const Product& product, ProductTypes types) {
  const ColumnMajor p(product);
  const float old = types.accumulate ? 1.0F : 0.0F;
  const cudaDataType in = type_of(types.in);
  const cudaDataType out = type_of(types.out);
  if (product.batch == 1) {
    check_cublas(cublasGemmEx(handle, p.first_is, p.second_is, p.m, p.n, p.k, &product.factor, p.first, in, p.first_distance, p.second, in,
                              p.second_distance, &old, p.result, out, p.result_distance, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "a matrix product");
  } else {
    check_cublas(
        cublasGemmStridedBatchedEx(handle, p.first_is, p.second_is, p.m, p.n, p.k, &product.factor, p.first, in, p.first_distance,
                                   product.b_step, p.second, in, p.second_distance, product.a_step, &old, p.result, out, p.result_distance,
                                   product.c_step, static_cast<int>(product.batch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "a batch of matrix products");
  }
}

}  // namespace yard::ops::kernels
