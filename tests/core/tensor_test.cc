#include "core/tensor/tensor.h"

#include <cmath>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::cpu;

TEST(Tensor, ViewsAlias) {
  Tensor whole = Tensor::zeros(cpu(), {4, 3});
  whole.row_range(1, 2).data<float>()[0] = 7;
  EXPECT_EQ(whole.values<float>()[3], 7);
  EXPECT_EQ(whole.reshaped({2, 6}).rows(), 2);
  EXPECT_EQ(whole.flat_range(3, {3}).values<float>()[0], 7);
}

TEST(Tensor, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros(cpu(), {4, 3});
  EXPECT_THROW((void)x.reshaped({5, 3}), Error);
  EXPECT_THROW((void)x.row_range(3, 2), Error);
  EXPECT_THROW((void)x.row_range(-1, 2), Error);
  EXPECT_THROW((void)x.data<BFloat16>(), Error);
  EXPECT_THROW((void)Shape({2, -1}), Error);
  EXPECT_THROW((void)Tensor::of<float>(cpu(), {3}, std::vector<float>{1, 2}), Error);
}

TEST(Tensor, EmptyIsOrdinary) {
  const Tensor x = Tensor::zeros(cpu(), {0, 8});
  EXPECT_EQ(x.rows(), 0);
  EXPECT_EQ(x.length(), 0);
  EXPECT_EQ(x.clone(cpu()).elements(), 0);
  EXPECT_EQ(x.row_range(0, 0).elements(), 0);
}

TEST(Tensor, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(BFloat16(1.00390625F)), 1.0F);       // halfway between 1 and 1.0078125: to even
  EXPECT_EQ(static_cast<float>(BFloat16(1.01171875F)), 1.015625F);  // halfway: to even, upwards
  EXPECT_EQ(static_cast<float>(BFloat16(-1.0040F)), -1.0078125F);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::nanf("")))));
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(3.4e38F))));
}

TEST(Allocator, KeepsBlocksAndCounts) {
  const auto allocator = make_host_allocator();
  void* first = nullptr;
  {
    const Buffer block(allocator, 5 << 20);
    first = block.data();
    EXPECT_GE(allocator->in_use(), std::size_t{5} << 20);
  }
  EXPECT_EQ(allocator->in_use(), 0U);
  EXPECT_GE(allocator->peak(), std::size_t{5} << 20);
  const Buffer again(allocator, 5 << 20);
  EXPECT_EQ(again.data(), first) << "a freed block serves the next caller of its size";
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(Buffer(allocator, 3).data()) % 64, 0U);
}

}  // namespace
}  // namespace yard
