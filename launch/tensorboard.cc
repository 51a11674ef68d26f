#include "launch/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "core/io/crc32c.h"
#include "launch/environment.h"
#include "proto/tensorboard.pb.h"

namespace yard {

namespace {
double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

/// Names differ also when one process starts two files within a second.
std::string new_file(const std::string& folder) {
  const auto stamp = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(stamp);
  const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(stamp - seconds);
  return fmt::format("{}/events.out.tfevents.{:010d}.{}.{}.{}", folder, seconds.count(), host_name(), ::getpid(), rest.count());
}

/// A map's entries sorted by name: protobuf's maps have no order.
template <class Value>
std::map<std::string, Value> in_order(const google::protobuf::Map<std::string, Value>& entries) {
  return {entries.begin(), entries.end()};
}

/// The smallest and the largest of a layer's values for each expert: curves of all of them would be too many to read.
void add_range(std::vector<Scalar>& scalars, const std::string& tag, int layer, const ExpertValues& row) {
  if (row.values().empty()) return;
  const auto [low, high] = std::minmax_element(row.values().begin(), row.values().end());
  scalars.emplace_back(fmt::format("{} minimum, layer {}", tag, layer), *low);
  scalars.emplace_back(fmt::format("{} maximum, layer {}", tag, layer), *high);
}

void append_little_endian(std::string& bytes, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xff);
}
}  // namespace

std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t value = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return ((value >> 15) | (value << 17)) + 0xa282ead8U;
}

std::vector<Scalar> scalars_of(const StepMetrics& metrics) {
  std::vector<Scalar> scalars = {
      {"lm loss", metrics.loss()},
      {"grad norm", metrics.grad_norm()},
      {"learning rate", metrics.learning_rate()},
      {"iteration-time", metrics.step_seconds()},
      {"tokens/s", metrics.tokens_per_second()},
      {"model TFLOP/s", metrics.model_tflops()},
      {"mem-allocated-bytes", metrics.memory_bytes()},
      {"consumed tokens", metrics.tokens()},
  };
  if (metrics.layers_size() > 0) {
    if (metrics.has_balance_loss()) scalars.emplace_back("load_balancing_loss", metrics.balance_loss());
    if (metrics.has_z_loss()) scalars.emplace_back("z_loss", metrics.z_loss());
    if (metrics.has_dropped_fraction()) scalars.emplace_back("dropped fraction", metrics.dropped_fraction());
    for (const auto& [name, value] : in_order(metrics.losses())) scalars.emplace_back("losses/" + name, value);
    for (const auto& [name, value] : in_order(metrics.scalars())) scalars.emplace_back("routing/" + name, value);
    double worst = 0;
    for (const LayerMetrics& layer : metrics.layers()) {
      worst = std::max(worst, layer.max_over_mean());
      scalars.emplace_back(fmt::format("experts/max over mean, layer {}", layer.layer()), layer.max_over_mean());
      for (const auto& [name, value] : in_order(layer.scalars()))
        scalars.emplace_back(fmt::format("routing/{}, layer {}", name, layer.layer()), value);
      for (const auto& [name, row] : in_order(layer.per_expert())) add_range(scalars, fmt::format("routing/{}", name), layer.layer(), row);
    }
    scalars.emplace_back("experts/max over mean, worst layer", worst);
  }
  if (metrics.communication_size() > 0) {
    double exposed = 0;
    for (const CommunicationMetrics& each : metrics.communication()) exposed += each.exposed_seconds();
    scalars.emplace_back("exposed communication", exposed);
  }
  if (metrics.has_validation_loss()) scalars.emplace_back("validation loss", metrics.validation_loss());
  if (metrics.has_bits_per_byte()) scalars.emplace_back("validation bits per byte", metrics.bits_per_byte());
  return scalars;
}

TensorBoardWriter::TensorBoardWriter(const std::string& run_directory) : file_(new_file(run_directory)) {
  tensorboard::Event first;
  first.set_wall_time(now());
  first.set_file_version("brain.Event:2");
  write_record(first.SerializeAsString());
}

void TensorBoardWriter::start_session(std::int64_t first_step) {
  tensorboard::Event event;
  event.set_wall_time(now());
  event.set_step(first_step);
  event.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  write_record(event.SerializeAsString());
}

void TensorBoardWriter::write(std::int64_t step, const std::vector<Scalar>& scalars) {
  tensorboard::Event event;
  event.set_wall_time(now());
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    auto& entry = *event.mutable_summary()->add_value();
    entry.set_tag(tag);
    entry.set_simple_value(static_cast<float>(value));
  }
  write_record(event.SerializeAsString());
}

void TensorBoardWriter::write_record(const std::string& data) {
  std::string length;
  append_little_endian(length, data.size(), 8);
  std::string record = length;
  append_little_endian(record, masked_crc32c(length), 4);
  record += data;
  append_little_endian(record, masked_crc32c(data), 4);
  file_.write(record);
}

}  // namespace yard
