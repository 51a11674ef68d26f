#include "tests/support/twins.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace yard::test {
namespace {

constexpr unsigned char kGuardByte = 0xff;  // NaN in every floating type, -1 in every whole one
constexpr Index kAligned = 64;              // elements: keeps a body behind a guard as aligned as a block

std::vector<unsigned char> bytes_of(const Tensor& tensor) {
  const Tensor host = tensor.to(gpu(), Device{});
  const auto* first = static_cast<const unsigned char*>(host.raw());
  return {first, first + host.bytes()};
}

void expect_agreement(const Tensor& actual, const Tensor& expected, double bound, const std::string& what) {
  ASSERT_EQ(actual.shape(), expected.shape()) << what;
  ASSERT_EQ(actual.dtype(), expected.dtype()) << what;
  if (actual.dtype() == DType::i32 || actual.dtype() == DType::i64) return expect_same_bits(actual, expected, what);
  const std::vector<double> a = to_f64(actual);
  const std::vector<double> e = to_f64(expected);
  if (actual.dtype() != DType::bf16) return expect_close(a, e, bound, what);
  double largest = 1e-30;
  for (const double value : e) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < e.size(); ++i) {
    const double allowed = 0x1p-7 * std::abs(e[i]) + bound * largest;
    if (!(std::abs(a[i] - e[i]) <= allowed) && !(std::isnan(a[i]) && std::isnan(e[i]))) {
      FAIL() << what << ": entry " << i << " is " << a[i] << ", on the CPU " << e[i];
    }
  }
}

}  // namespace

Stream& gpu() {
  static Stream stream{Device{DeviceType::cuda, 0}};
  return stream;
}

std::vector<Shape> twin_shapes() {
  std::vector<Shape> shapes = {{0, 8}, {1, 1}, {1, 8}, {5, 33}, {40, 100}, {3, 1030}};
  const char* wanted = std::getenv("SWITCHYARD_TWINS");
  if (wanted != nullptr && std::string(wanted) == "full")
    shapes.insert(shapes.end(), {{700, 64}, {300, 513}, {2, 9000}, {1, 40000}, {3000, 3}});
  return shapes;
}

Tensor Side::place(const std::string& name, const Tensor& host, bool may_change) {
  if (!host.defined()) return host;
  if (stream.device().type == DeviceType::cpu) {
    if (!may_change) return host;
    Tensor copy = host.clone(stream);
    inputs_.push_back({name, host, copy, {}, {}, true});
    return copy;
  }
  const Index row = std::max<Index>(host.cols(), 1);
  const Index guard = (row + kAligned - 1) / kAligned * kAligned;
  const Tensor whole(stream, {guard + shift_ + host.elements() + guard}, host.dtype());
  stream.set(whole.raw(), kGuardByte, whole.bytes());
  Tensor body = whole.flat_range(guard + shift_, host.shape());
  stream.copy(body.raw(), host.raw(), host.bytes());
  inputs_.push_back({name, host, body, whole, whole.clone(stream), may_change});
  return body;
}

Tensor Side::in(const Tensor& host) { return place("input " + std::to_string(inputs_.size()), host, false); }
Tensor Side::changed(const std::string& name, const Tensor& host) { return place(name, host, true); }

void Side::out(const std::string& name, const Tensor& result) { results_.push_back({name, result}); }

std::vector<Side::Result> Side::finish(const std::string& what) {
  for (const Guarded& input : inputs_) {
    if (input.may_change) out(input.name, input.body);
    if (!input.whole.defined()) continue;
    const auto before = bytes_of(input.before);
    const auto after = bytes_of(input.whole);
    const auto first =
        static_cast<std::size_t>(static_cast<const std::byte*>(input.body.raw()) - static_cast<const std::byte*>(input.whole.raw()));
    for (std::size_t i = 0; i < before.size(); ++i) {
      const bool in_body = i >= first && i < first + input.body.bytes();
      if (before[i] == after[i] || (in_body && input.may_change)) continue;
      ADD_FAILURE() << what << ": " << input.name << (in_body ? ", which is only read, was changed" : " was written beyond its ends")
                    << " at byte " << static_cast<std::int64_t>(i) - static_cast<std::int64_t>(first) << " of " << input.body.bytes();
      break;
    }
  }
  for (Result& result : results_) {
    if (result.values.defined()) result.values = result.values.to(stream, Device{});
  }
  stream.synchronize();
  return std::move(results_);
}

void expect_twins(const std::string& what, const std::function<void(Side&)>& op, double bound) {
  const auto run = [&](Stream& stream, Index shift) {
    Side side(stream, shift);
    op(side);
    return side.finish(what);
  };
  const auto expected = run(cpu(), 0);
  const auto first = run(gpu(), 0);
  const auto second = run(gpu(), 0);
  const auto shifted = run(gpu(), 1);
  ASSERT_FALSE(expected.empty()) << what << ": the test names no result";
  ASSERT_EQ(first.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string name = what + ", " + expected[i].name;
    ASSERT_EQ(first[i].values.defined(), expected[i].values.defined()) << name;
    if (!expected[i].values.defined()) continue;
    expect_agreement(first[i].values, expected[i].values, bound, name);
    expect_same_bits(second[i].values, first[i].values, name + ", run again");
    expect_agreement(shifted[i].values, expected[i].values, bound, name + ", not aligned");
  }
}

}  // namespace yard::test
