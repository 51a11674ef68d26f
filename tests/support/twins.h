#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/support/support.h"

namespace yard::test {

/// A stream on the first GPU, real or emulated, that lives as long as the test program.
Stream& gpu();

/// Shapes (rows, columns) that most ops are tried on: none, one and uneven rows, widths that are and are not multiples of four, long rows.
/// SWITCHYARD_TWINS=full adds larger ones.
std::vector<Shape> twin_shapes();

/// One run of an op on one side, with inputs that the host made. On the GPU each lies between guard rows of NaN that nobody may write, and
/// whose values would show in every result that somebody read them into.
class Side {
 public:
  /// `shift`: elements by which inputs lie off the alignment of the device's blocks.
  Side(Stream& on, Index shift) : stream(on), shift_(shift) {}

  Stream& stream;
  /// The values of a host tensor, here. They must be the same afterwards. An undefined tensor stays one.
  Tensor in(const Tensor& host);
  /// The same for a tensor that the op changes: what it holds afterwards is a result.
  Tensor changed(const std::string& name, const Tensor& host);
  /// A result of the op.
  void out(const std::string& name, const Tensor& result);

  struct Result {
    std::string name;
    Tensor values;  // on the host
  };
  /// All results, after the guards and the inputs were looked at.
  std::vector<Result> finish(const std::string& what);

 private:
  struct Guarded {
    std::string name;
    Tensor host, body, whole, before;
    bool may_change;
  };
  Tensor place(const std::string& name, const Tensor& host, bool may_change);
  Index shift_;
  std::vector<Guarded> inputs_;
  std::vector<Result> results_;
};

/// Runs an op on the CPU and on the GPU and fails unless the results agree: f32 and f64 to `bound` of the largest value, bf16 to one step
/// of rounding beside that, whole numbers exactly. On the GPU it runs twice, which must give the same bits, and once more on inputs that
/// are not aligned.
void expect_twins(const std::string& what, const std::function<void(Side&)>& op, double bound = 1e-5);

}  // namespace yard::test
