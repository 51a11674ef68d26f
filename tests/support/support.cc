#include "tests/support/support.h"

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace yard::test {

Stream& cpu() {
  static Stream stream{Device{}};
  return stream;
}

Tensor random_tensor(Shape shape, std::uint64_t seed, float scale, DType dtype) {
  Tensor result(cpu(), shape, dtype);
  const Random random(key_of(seed, 0xfeedULL));
  with_float_type(dtype, [&](auto type) {
    auto* values = result.data<decltype(type)>();
    for (Index i = 0; i < result.elements(); ++i) values[i] = random.normal(static_cast<std::uint64_t>(i)) * scale;
  });
  return result;
}

Tensor random_integers(Shape shape, std::uint64_t seed, int low, int high) {
  Tensor result(cpu(), shape, DType::i32);
  const Random random(key_of(seed, 0xbeadULL));
  for (Index i = 0; i < result.elements(); ++i) {
    result.data<std::int32_t>()[i] =
        low + static_cast<int>(random.bits(static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(high - low));
  }
  return result;
}

Tensor tensor_of(Shape shape, const std::vector<double>& values) { return Tensor::of<double>(cpu(), shape, values); }
Tensor tensor_of(Shape shape, const std::vector<float>& values) { return Tensor::of<float>(cpu(), shape, values); }
Tensor tensor_of(Shape shape, const std::vector<int>& values) { return Tensor::of<std::int32_t>(cpu(), shape, values); }

namespace {
template <class T>
std::vector<double> widened(const Tensor& tensor) {
  std::vector<double> result;
  for (const T value : tensor.values<T>()) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      result.push_back(static_cast<float>(value));
    } else {
      result.push_back(static_cast<double>(value));
    }
  }
  return result;
}
}  // namespace

std::vector<double> to_f64(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::f32:
      return widened<float>(tensor);
    case DType::bf16:
      return widened<BFloat16>(tensor);
    case DType::f64:
      return widened<double>(tensor);
    case DType::i32:
      return widened<std::int32_t>(tensor);
    default:
      return widened<std::int64_t>(tensor);
  }
}

void expect_close(std::span<const double> actual, std::span<const double> expected, double bound, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 1e-30;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  double worst = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(actual[i] - expected[i]);
    if (!(difference <= worst)) {
      worst = difference;
      where = i;
    }
  }
  if (!actual.empty()) {
    EXPECT_LE(worst / largest, bound) << what << ": entry " << where << " is " << actual[where] << ", expected " << expected[where];
  }
}

void expect_close(const Tensor& actual, std::span<const double> expected, double bound, const std::string& what) {
  expect_close(to_f64(actual), expected, bound, what);
}

void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.shape(), b.shape()) << what;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  const auto* x = static_cast<const unsigned char*>(a.raw());
  const auto* y = static_cast<const unsigned char*>(b.raw());
  for (std::size_t i = 0; i < a.bytes(); ++i) {
    if (x[i] != y[i]) {
      FAIL() << what << ": element " << i / size_of(a.dtype()) << " differs";
    }
  }
}

double relative_error(std::span<const double> actual, std::span<const double> expected) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

std::vector<double> numeric_gradient(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x, double step) {
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    const double h = step * std::max(1.0, std::abs(at));
    x[i] = at + h;
    const double above = f(x);
    x[i] = at - h;
    const double below = f(x);
    x[i] = at;
    gradient[i] = (above - below) / (2 * h);
  }
  return gradient;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "switchyard-test-XXXXXX").string();
  check(mkdtemp(pattern.data()) != nullptr, "cannot make a temporary folder like ", pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string why_no_pseudo_terminal() {
  int controller = -1, terminal = -1;
  if (::openpty(&controller, &terminal, nullptr, nullptr, nullptr) != 0) {
    return std::string("no pseudo-terminal can be opened here (is /dev/pts mounted?): ") + std::strerror(errno);
  }
  ::close(controller);
  ::close(terminal);
  return {};
}

CommandResult run_command(const std::string& command) {
  const TemporaryFolder folder;
  const std::string line = "{ " + command + " ; } >" + (folder / "out") + " 2>" + (folder / "err") + " </dev/null";
  const int status = std::system(line.c_str());  // NOLINT(cert-env33-c): the tests run the program as a person does
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read(folder / "out"), read(folder / "err")};
}

}  // namespace yard::test
