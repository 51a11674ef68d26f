// The functions of cuBLAS that the product uses, under their names and signatures of the toolkit's headers. Matrices are column-major:
// entry (i, j) of a matrix with leading dimension ld lies at i + j * ld.

#include <cublas_v2.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/tensor/dtype.h"
#include "tests/cuda_emulation/language.h"
#include "tests/cuda_emulation/options.h"
#include "tests/cuda_emulation/queues.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  void* workspace = nullptr;
};

namespace yard::emulation {
namespace {

struct Matrix {
  const void* values;
  cudaDataType type;
  int ld;
  bool transposed = false;
};

struct Product {
  int m, n, k;
  float alpha, beta;
  Matrix a, b, c;
};

float value_at(const Matrix& matrix, std::int64_t i, std::int64_t j) {
  const std::int64_t at = matrix.transposed ? j + i * matrix.ld : i + j * matrix.ld;
  if (matrix.type == CUDA_R_32F) return static_cast<const float*>(matrix.values)[at];
  return static_cast<const BFloat16*>(matrix.values)[at];
}

/// The values of op(A) (m x k), a row after the other; each is read as the matrix says, under the eyes of the address sanitizer.
std::vector<float> gathered(const Matrix& matrix, std::int64_t rows, std::int64_t columns) {
  std::vector<float> result(static_cast<std::size_t>(rows * columns));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) result[static_cast<std::size_t>(i * columns + j)] = value_at(matrix, i, j);
  }
  return result;
}

/// sums (m x n) += a (m x k) b (k x n), all a row after the other.
__attribute__((no_sanitize("address"))) void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const float* __restrict a,
                                                      const float* __restrict b, float* __restrict sums) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t p = 0; p < k; ++p) {
      const float factor = a[i * k + p];
      for (std::int64_t j = 0; j < n; ++j) sums[i * n + j] += factor * b[p * n + j];
    }
  }
}

void run(const Product& p) {
  const std::vector<float> a = gathered(p.a, p.m, p.k);
  const std::vector<float> b = gathered(p.b, p.k, p.n);
  std::vector<float> sums(static_cast<std::size_t>(p.m) * static_cast<std::size_t>(p.n));
  multiply(p.m, p.n, p.k, a.data(), b.data(), sums.data());
  for (std::int64_t j = 0; j < p.n; ++j) {
    for (std::int64_t i = 0; i < p.m; ++i) {
      float value = p.alpha * sums[static_cast<std::size_t>(i * p.n + j)];
      if (p.beta != 0) value += p.beta * value_at(p.c, i, j);  // as BLAS: C is not read for beta 0, it may hold NaN
      const std::int64_t at = i + j * p.c.ld;
      if (p.c.type == CUDA_R_32F) {
        static_cast<float*>(const_cast<void*>(p.c.values))[at] = value;
      } else {
        static_cast<BFloat16*>(const_cast<void*>(p.c.values))[at] = value;
      }
    }
  }
}

bool is_operation(cublasOperation_t op) { return op == CUBLAS_OP_N || op == CUBLAS_OP_T || op == CUBLAS_OP_C; }

/// As cuBLAS checks sizes and leading dimensions.
bool sizes_fit(cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, int lda, int ldb, int ldc) {
  if (!is_operation(transa) || !is_operation(transb) || m < 0 || n < 0 || k < 0) return false;
  return lda >= std::max(1, transa == CUBLAS_OP_N ? m : k) && ldb >= std::max(1, transb == CUBLAS_OP_N ? k : n) && ldc >= std::max(1, m);
}

/// Which combinations of types cuBLAS multiplies with f32 accumulation, of those that the product uses.
bool types_fit(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
  if (compute != CUBLAS_COMPUTE_32F || a != b) return false;
  return (a == CUDA_R_32F && c == CUDA_R_32F) || (a == CUDA_R_16BF && (c == CUDA_R_16BF || c == CUDA_R_32F));
}

Product product_of(cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, float alpha, float beta, Matrix a, Matrix b,
                   Matrix c) {
  a.transposed = transa != CUBLAS_OP_N;
  b.transposed = transb != CUBLAS_OP_N;
  return {m, n, k, alpha, beta, a, b, c};
}

/// The rule for pointers of grouped products in bf16: aligned to 16 bytes where rows of k values are, and to 4 where those are.
bool aligned(const void* pointer, int k, cudaDataType type) {
  if (type != CUDA_R_16BF) return true;
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const std::size_t row = static_cast<std::size_t>(k) * 2;
  if (row % 16 == 0) return address % 16 == 0;
  return row % 4 != 0 || address % 4 == 0;
}

}  // namespace
}  // namespace yard::emulation

using yard::emulation::Gpu;
using yard::emulation::Matrix;
using Lock = std::lock_guard<std::recursive_mutex>;

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Lock lock(Gpu::get().mutex);
  Gpu::get().drain();  // as cuBLAS: it waits for the device
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "another status of cuBLAS";
  }
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t streamId) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = streamId;
  handle->workspace = nullptr;  // as cuBLAS: a workspace belongs to a stream
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->math = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t workspaceSizeInBytes) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Lock lock(Gpu::get().mutex);
  const bool usable =
      reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0 && Gpu::get().memory.within_block(workspace, workspaceSizeInBytes);
  if (!usable) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                                          const void* alpha, const void* A, cudaDataType Atype, int lda, long long int strideA,
                                          const void* B, cudaDataType Btype, int ldb, long long int strideB, const void* beta, void* C,
                                          cudaDataType Ctype, int ldc, long long int strideC, int batchCount,
                                          cublasComputeType_t computeType, cublasGemmAlgo_t) {
  using namespace yard::emulation;  // NOLINT
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || batchCount < 0 || !sizes_fit(transa, transb, m, n, k, lda, ldb, ldc)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!types_fit(Atype, Btype, Ctype, computeType)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (m == 0 || n == 0 || batchCount == 0) return CUBLAS_STATUS_SUCCESS;
  for (const void* pointer : {A, B, static_cast<const void*>(C)}) check_argument(pointer);
  const Product first = product_of(transa, transb, m, n, k, *static_cast<const float*>(alpha), *static_cast<const float*>(beta),
                                   {A, Atype, lda}, {B, Btype, ldb}, {C, Ctype, ldc});
  const auto further = [](const void* start, long long values, cudaDataType type) {
    return static_cast<const void*>(static_cast<const std::byte*>(start) + values * (type == CUDA_R_32F ? 4 : 2));
  };
  const Lock lock(Gpu::get().mutex);
  Gpu::get().enqueue(handle->stream, [=] {
    for (int i = 0; i < batchCount; ++i) {
      Product one = first;
      one.a.values = further(A, strideA * i, Atype);
      one.b.values = further(B, strideB * i, Btype);
      one.c.values = further(C, strideC * i, Ctype);
      run(one);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                            const void* alpha, const void* A, cudaDataType Atype, int lda, const void* B, cudaDataType Btype, int ldb,
                            const void* beta, void* C, cudaDataType Ctype, int ldc, cublasComputeType_t computeType,
                            cublasGemmAlgo_t algo) {
  return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1,
                                    computeType, algo);
}

cublasStatus_t cublasGemmGroupedBatchedEx(cublasHandle_t handle, const cublasOperation_t transa_array[],
                                          const cublasOperation_t transb_array[], const int m_array[], const int n_array[],
                                          const int k_array[], const void* alpha_array, const void* const Aarray[], cudaDataType_t Atype,
                                          const int lda_array[], const void* const Barray[], cudaDataType_t Btype, const int ldb_array[],
                                          const void* beta_array, void* const Carray[], cudaDataType_t Ctype, const int ldc_array[],
                                          int group_count, const int group_size[], cublasComputeType_t computeType) {
  using namespace yard::emulation;  // NOLINT
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  for (const void* array : std::initializer_list<const void*>{transa_array, transb_array, m_array, n_array, k_array, alpha_array, lda_array,
                                                              ldb_array, beta_array, ldc_array, group_size}) {
    if (array == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (group_count < 0) return CUBLAS_STATUS_INVALID_VALUE;
  // Only equal types: a bf16 product is stored as bf16 here.
  if (!types_fit(Atype, Btype, Ctype, computeType) || Ctype != Atype) return CUBLAS_STATUS_NOT_SUPPORTED;
  std::vector<Product> products;
  for (int i = 0; i < group_count; ++i) {
    const bool fits =
        sizes_fit(transa_array[i], transb_array[i], m_array[i], n_array[i], k_array[i], lda_array[i], ldb_array[i], ldc_array[i]);
    if (group_size[i] < 0 || !fits) return CUBLAS_STATUS_INVALID_VALUE;
    const Product one = product_of(transa_array[i], transb_array[i], m_array[i], n_array[i], k_array[i],
                                   static_cast<const float*>(alpha_array)[i], static_cast<const float*>(beta_array)[i],
                                   {nullptr, Atype, lda_array[i]}, {nullptr, Btype, ldb_array[i]}, {nullptr, Ctype, ldc_array[i]});
    products.insert(products.end(), static_cast<std::size_t>(group_size[i]), one);
  }
  for (const void* pointers : {static_cast<const void*>(Aarray), static_cast<const void*>(Barray), static_cast<const void*>(Carray)}) {
    check_argument(pointers);
  }
  const Lock lock(Gpu::get().mutex);
  Gpu::get().enqueue(handle->stream, [=]() mutable {
    for (std::size_t i = 0; i < products.size(); ++i) {  // the arrays of pointers lie on the device
      Product& one = products[i];
      one.a.values = Aarray[i];
      one.b.values = Barray[i];
      one.c.values = Carray[i];
      if (!aligned(one.a.values, one.k, Atype) || !aligned(one.b.values, one.k, Btype) || !aligned(one.c.values, one.k, Ctype)) {
        fault("a grouped product of bf16 with k = " + std::to_string(one.k) +
              " has a matrix at an address that cuBLAS would read misaligned");
      }
      if (one.m > 0 && one.n > 0) run(one);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
