#include "core/ops/matmul.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/ops/elementwise.h"
#include "core/ops/gpu.h"
#include "core/ops/gpu_products.h"

namespace yard::ops::kernels {
namespace {

/// Streams beside one that products of single experts are spread over.
class SideStreams {
 public:
  static constexpr std::size_t kCount = 3;

  /// The sides start after what the main stream did so far.
  void fork(Stream& main) {
    const Event start = main.record();
    for (auto& side : sides_) {
      if (!side) side = std::make_unique<Stream>(main.device());
      side->wait(start);
    }
  }
  Stream& side(std::size_t number) { return *sides_[number]; }
  /// The main stream goes on after what the sides did.
  void join(Stream& main) {
    for (auto& side : sides_) main.wait(side->record());
  }

 private:
  std::array<std::unique_ptr<Stream>, kCount> sides_;
};

// ------------------------------------------------------------------------------------------------------------------------ many products

/// Whether cuBLAS takes these as one grouped product: it stores what it reads, and bf16 matrices must lie where it can load them.
bool can_be_grouped(std::span<const Product> products, ProductTypes types) {
  if (products.size() < 2 || types.in != types.out) return false;
  if (types.in == DType::f32) return true;
  const auto lies_well = [](const void* matrix, Index k) {
    const auto address = reinterpret_cast<std::uintptr_t>(matrix);
    const Index row = k * static_cast<Index>(sizeof(BFloat16));
    return row % 16 == 0 ? address % 16 == 0 : row % 4 != 0 || address % 4 == 0;
  };
  return std::all_of(products.begin(), products.end(),
                     [&](const Product& p) { return lies_well(p.a, p.k) && lies_well(p.b, p.k) && lies_well(p.c, p.k); });
}

void multiply_grouped(Stream& stream, cublasHandle_t handle, std::span<const Product> products, ProductTypes types) {
  const std::size_t count = products.size();
  std::vector<cublasOperation_t> first_is, second_is;
  std::vector<int> m, n, k, first_distance, second_distance, result_distance;
  std::vector<std::int64_t> addresses(3 * count);
  for (std::size_t i = 0; i < count; ++i) {
    const ColumnMajor p(products[i]);
    first_is.push_back(p.first_is);
    second_is.push_back(p.second_is);
    m.push_back(p.m);
    n.push_back(p.n);
    k.push_back(p.k);
    first_distance.push_back(p.first_distance);
    second_distance.push_back(p.second_distance);
    result_distance.push_back(p.result_distance);
    addresses[i] = reinterpret_cast<std::intptr_t>(p.first);
    addresses[count + i] = reinterpret_cast<std::intptr_t>(p.second);
    addresses[2 * count + i] = reinterpret_cast<std::intptr_t>(p.result);
  }
  // cuBLAS reads the addresses on the device, everything else on the host.
  const Tensor table = Tensor::of<std::int64_t>(stream, {static_cast<Index>(3 * count)}, addresses);
  auto* const entries = table.data<std::int64_t>();
  const std::vector<float> ones(count, 1.0F);
  const std::vector<float> old(count, types.accumulate ? 1.0F : 0.0F);
  const std::vector<int> one_each(count, 1);
  check_cublas(cublasGemmGroupedBatchedEx(handle, first_is.data(), second_is.data(), m.data(), n.data(), k.data(), ones.data(),
                                          reinterpret_cast<const void* const*>(entries), type_of(types.in), first_distance.data(),
                                          reinterpret_cast<const void* const*>(entries + count), type_of(types.in), second_distance.data(),
                                          old.data(), reinterpret_cast<void* const*>(entries + 2 * count), type_of(types.out),
                                          result_distance.data(), static_cast<int>(count), one_each.data(), CUBLAS_COMPUTE_32F),
               "a grouped matrix product");
}

/// All products, which write different matrices: as one where cuBLAS can, else spread over a few streams.
void multiply_all(Stream& stream, std::span<const Product> products, ProductTypes types, const std::function<void()>& poll) {
  const auto between = [&] {
    if (poll) poll();
  };
  if (products.empty()) return;
  auto& library = stream.kept<Cublas>();
  if (can_be_grouped(products, types)) {
    multiply_grouped(stream, library.on(stream), products, types);
    return between();
  }
  if (products.size() == 1) {
    multiply(library.on(stream), products[0], types);
    return between();
  }
  auto& sides = stream.kept<SideStreams>();
  sides.fork(stream);
  for (std::size_t i = 0; i < products.size(); ++i) {
    const std::size_t place = i % (SideStreams::kCount + 1);
    Stream& on = place == 0 ? stream : sides.side(place - 1);
    multiply(on.kept<Cublas>().on(on), products[i], types);
    between();
  }
  sides.join(stream);
}

/// Calls body(group, first row, rows) for the groups that have rows.
template <class Body>
void for_each_group(std::span<const Index> rows, const Body& body) {
  Index first = 0;
  for (std::size_t group = 0; group < rows.size(); ++group) {
    if (rows[group] > 0) body(static_cast<Index>(group), first, rows[group]);
    first += rows[group];
  }
}

const void* read_at(const Tensor& tensor, Index element) {
  check(tensor.device().type == DeviceType::cuda, "a product on the GPU was given a matrix of the host, of shape ", tensor.shape());
  return static_cast<const std::byte*>(tensor.raw()) + static_cast<std::size_t>(element) * size_of(tensor.dtype());
}
void* write_at(const Tensor& tensor, Index element) { return const_cast<void*>(read_at(tensor, element)); }

/// cuBLAS stores a product of f32 only as f32.
bool needs_cast(const Tensor& in, const Tensor& out) { return in.dtype() == DType::f32 && out.dtype() == DType::bf16; }

// -------------------------------------------------------------------------------------------------------------------------- row by row

/// y = x W^T for one group: a warp makes one column of the result for kRows rows, and reads its row of W once.
template <int kPack, int kRows, class T, class Y>
__global__ void product_by_row(const T* x, const T* weights, Y* y, Index rows, Index in, Index out) {
  const Index column = item() / kWarp;
  if (column >= out) return;
  const Index lane = threadIdx.x % kWarp;
  const Index first = static_cast<Index>(blockIdx.y) * kRows;
  float sums[kRows] = {};
  for (Index p = lane; p < in / kPack; p += kWarp) {
    const auto weight = load_pack<kPack>(weights + column * in, p);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (first + row >= rows) break;
      const auto value = load_pack<kPack>(x + (first + row) * in, p);
      for (int i = 0; i < kPack; ++i) sums[row] += static_cast<float>(value.values[i]) * static_cast<float>(weight.values[i]);
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (first + row >= rows) break;
    const float total = warp_reduce(sums[row]);
    if (lane == 0) y[(first + row) * out + column] = total;
  }
}

}  // namespace

/// cuBLAS reads the weights as they lie.
void matmul(Cuda on, Stream& stream, const Tensor& x, const Weights& weights, std::span<const Index> rows, const Tensor& y,
            const std::function<void()>& poll) {
  if (needs_cast(x, y)) {
    const Tensor exact(stream, y.shape());
    matmul(on, stream, x, weights, rows, exact, poll);
    return copy_into(on, stream, exact, y);
  }
  const Index in = weights.in();
  const Index out = weights.out();
  std::vector<Product> products;
  for_each_group(rows, [&](Index group, Index first, Index count) {
    products.push_back({.m = count,
                        .n = out,
                        .k = in,
                        .a = read_at(x, first * in),
                        .b = read_at(weights.value(), group * out * in),
                        .b_transposed = true,
                        .c = write_at(y, first * out)});
  });
  multiply_all(stream, products, {x.dtype(), y.dtype()}, poll);
}

void matmul_backward_input(Cuda on, Stream& stream, const Tensor& dy, const Weights& weights, std::span<const Index> rows, const Tensor& dx,
                           const std::function<void()>& poll) {
  if (needs_cast(dy, dx)) {
    const Tensor exact(stream, dx.shape());
    matmul_backward_input(on, stream, dy, weights, rows, exact, poll);
    return copy_into(on, stream, exact, dx);
  }
  const Index in = weights.in();
  const Index out = weights.out();
  std::vector<Product> products;
  for_each_group(rows, [&](Index group, Index first, Index count) {
    products.push_back({.m = count,
                        .n = in,
                        .k = out,
                        .a = read_at(dy, first * out),
                        .b = read_at(weights.value(), group * out * in),
                        .c = write_at(dx, first * in)});
  });
  multiply_all(stream, products, {dy.dtype(), dx.dtype()}, poll);
}

void matmul_backward_weight(Cuda, Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                            const std::function<void()>& poll) {
  const Index in = x.cols();
  const Index out = dy.cols();
  std::vector<Product> products;
  for_each_group(rows, [&](Index group, Index first, Index count) {
    products.push_back({.m = out,
                        .n = in,
                        .k = count,
                        .a = read_at(dy, first * out),
                        .a_transposed = true,
                        .b = read_at(x, first * in),
                        .c = write_at(dweight, group * out * in)});
  });
  multiply_all(stream, products, {x.dtype(), DType::f32, true}, poll);
}

void matmul_by_row(Cuda, Stream& stream, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y) {
  constexpr int kRows = 4;
  const Index in = x.cols();
  const Index out = y.cols();
  with_float_type(x.dtype(), [&](auto values) {
    with_float_type(y.dtype(), [&](auto results) {
      using T = decltype(values);
      using Y = decltype(results);
      const auto body = [&](auto pack) {
        for_each_group(rows, [&](Index group, Index first, Index count) {
          launch(product_by_row<pack(), kRows, T, Y>, dim3(blocks_for(out * kWarp), blocks_for(count, kRows)), kBlockThreads, stream,
                 on_device<T>(x) + first * in, on_device<T>(value) + group * out * in, on_device<Y>(y) + first * out, count, in, out);
        });
      };
      with_packs(in, body, x, value);
    });
  });
}

}  // namespace yard::ops::kernels
