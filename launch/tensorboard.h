#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/append_file.h"
#include "proto/metrics.pb.h"

namespace yard {

/// A scalar and the tag that TensorBoard shows it under.
using Scalar = std::pair<std::string, double>;

/// The scalars of a step, under Megatron's tags where it has them: lm loss, load_balancing_loss, z_loss, grad norm, learning rate,
/// iteration-time, mem-allocated-bytes and more.
std::vector<Scalar> scalars_of(const StepMetrics&);

/// CRC-32C (Castagnoli) of some bytes, masked as TensorBoard's record files want it.
std::uint32_t masked_crc32c(std::string_view bytes);

/// An event file, events.out.tfevents.*, of scalars.
class TensorBoardWriter {
 public:
  /// Starts a new file in the folder; throws Error when it cannot be written.
  explicit TensorBoardWriter(const std::string& run_directory);
  /// From now on steps begin with `first_step`: TensorBoard drops what earlier files of the folder have of this step and later ones.
  void start_session(std::int64_t first_step);
  void write(std::int64_t step, const std::vector<Scalar>&);
  const std::string& path() const noexcept { return file_.path(); }

 private:
  void write_record(const std::string& data);
  AppendFile file_;
};

}  // namespace yard
