#include <chrono>
#include <thread>

#include "core/device/ranges.h"
#include "core/profiler.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(DeviceTwin, ValuesGoThereAndBack) {
  const Tensor host = random_tensor({5, 7}, 1);
  const Tensor there = host.to(gpu(), gpu().device());
  EXPECT_EQ(there.device(), gpu().device());
  expect_same_bits(there.to(gpu(), Device{}), host, "there and back");
  expect_same_bits(there.clone(gpu()).to(gpu(), Device{}), host, "a copy on the device");
  const Tensor zeros = Tensor::zeros(gpu(), {4});
  expect_same_bits(zeros.to(gpu(), Device{}), Tensor::zeros(cpu(), {4}), "zeros");
  const Tensor of = Tensor::of<std::int64_t>(gpu(), {3}, std::vector<std::int64_t>{1, -2, 3});
  EXPECT_EQ(of.to(gpu(), Device{}).values<std::int64_t>()[1], -2);
  EXPECT_EQ(Tensor::zeros(gpu(), {0, 3}).to(gpu(), Device{}).elements(), 0);
}

TEST(DeviceTwin, TheHostCannotReadTheDevicesValues) { EXPECT_THROW((void)Tensor::zeros(gpu(), {3}).values<float>(), Error); }

TEST(DeviceTwin, PageLockedMemoryCopiesInTheOrderOfTheStream) {
  const Tensor first = Tensor::on_host(gpu(), {3});
  const Tensor second = Tensor::on_host(gpu(), {3});
  const Tensor there(gpu(), {3});
  for (std::size_t i = 0; i < 3; ++i) first.values<float>()[i] = static_cast<float>(i);
  gpu().copy(there.raw(), first.raw(), first.bytes());
  gpu().copy(second.raw(), there.raw(), there.bytes());
  const Event copied = gpu().record();
  copied.wait();
  EXPECT_TRUE(copied.done());
  expect_same_bits(second, first, "through the device");
}

TEST(DeviceTwin, StreamsWaitForEvents) {
  Stream other(gpu().device());
  const Tensor host = random_tensor({1000}, 1);
  const Tensor there(gpu(), {1000});
  gpu().copy(there.raw(), host.raw(), host.bytes());
  other.wait(gpu().record());
  const Tensor copy = there.clone(other);
  const Event done = other.record();
  gpu().wait(done);
  expect_same_bits(copy.to(gpu(), Device{}), host, "the other stream's copy");
  other.synchronize();
}

TEST(DeviceTwin, EventsAreReachedWhileAskedAndTellTime) {
  const Event before = gpu().record();
  const Tensor zeros = Tensor::zeros(gpu(), {1 << 20});
  const Event after = gpu().record();
  while (!after.done()) std::this_thread::sleep_for(std::chrono::microseconds(50));
  EXPECT_GE(after.seconds_since(before), 0.0);
  EXPECT_LT(after.seconds_since(before), 10.0);
  EXPECT_TRUE(Event().done());
  Event().wait();
  cpu().wait(after);
  gpu().wait(cpu().record());
  EXPECT_THROW((void)after.seconds_since(cpu().record()), Error);
}

TEST(DeviceTwin, CountsTheBytesInUse) {
  Stream stream(gpu().device());
  EXPECT_EQ(stream.allocator()->in_use(), 0U);
  {
    const Tensor one(stream, {1000});
    const Tensor two(stream, {500});
    EXPECT_EQ(stream.allocator()->in_use(), 6000U);
  }
  EXPECT_EQ(stream.allocator()->in_use(), 0U);
  EXPECT_EQ(stream.allocator()->peak(), 6000U);
  stream.allocator()->reset_peak();
  EXPECT_EQ(stream.allocator()->peak(), 0U);
}

TEST(DeviceTwin, OnlyGpusThatExistCanBeTaken) { EXPECT_THROW(Stream(Device{DeviceType::cuda, 1000}), InputError); }

TEST(DeviceTwin, SpansAreRangesOnTheTimeline) {
  Profiler profiler;
  profiler.mark_ranges(make_ranges(gpu().device()));
  EXPECT_NE(profiler.ranges(), nullptr);
  { const Span span(profiler, "attention.forward"); }
  EXPECT_EQ(profiler.take().count("attention.forward"), 1U);
}

}  // namespace
}  // namespace yard
