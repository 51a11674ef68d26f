#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/tensor/tensor.h"

namespace yard::test {

/// A stream on the CPU that lives as long as the test program.
Stream& cpu();

/// Normal values times `scale`, a pure function of the seed; rounded when dtype is bf16.
Tensor random_tensor(Shape shape, std::uint64_t seed, float scale = 1, DType dtype = DType::f32);
/// Whole numbers in [low, high).
Tensor random_integers(Shape shape, std::uint64_t seed, int low, int high);
Tensor tensor_of(Shape shape, const std::vector<float>& values);
Tensor tensor_of(Shape shape, const std::vector<int>& values);
Tensor tensor_of(Shape shape, const std::vector<double>& values);

/// The values of an f32, bf16, i32, i64 or f64 tensor as f64: what the plain f64 loops of the tests work on.
std::vector<double> to_f64(const Tensor& tensor);

/// Fails unless every |actual - expected| is at most bound times the largest |expected| (a relative bound that zero entries cannot void).
void expect_close(const Tensor& actual, std::span<const double> expected, double bound, const std::string& what);
void expect_close(std::span<const double> actual, std::span<const double> expected, double bound, const std::string& what);
/// Fails unless both tensors hold the same bits.
void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what);
/// |actual - expected| / |expected| in the 2-norm.
double relative_error(std::span<const double> actual, std::span<const double> expected);

/// Central differences of a scalar function of x in f64: the check of the f64 loops themselves.
std::vector<double> numeric_gradient(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x, double step = 1e-5);

/// A folder of its own that is removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  const std::string& path() const noexcept { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Why no pseudo-terminal can be opened here, as in a container without /dev/pts; empty where one can. For GTEST_SKIP.
std::string why_no_pseudo_terminal();

/// Runs a shell command; what it wrote to stdout and stderr, and its exit code.
struct CommandResult {
  int code = 0;
  std::string out, err;
};
CommandResult run_command(const std::string& command);

}  // namespace yard::test
