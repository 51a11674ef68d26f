#include "launch/config_limits.h"

#include <google/protobuf/text_format.h>

#include <limits>
#include <string>

#include "core/build_config.h"
#include "core/error.h"
#include "launch/config_fields.h"

namespace yard {

namespace pb = google::protobuf;

namespace {
constexpr double kCount = std::numeric_limits<std::int32_t>::max();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

enum class Ends : std::uint8_t { closed, open_below, open_above, open };

/// A number's limits; an optional field that is not set has none.
struct Limit {
  const char* path;
  double low, high;
  Ends ends = Ends::closed;
};

constexpr Limit kLimits[] = {
    {"run.steps", 1, kCount},
    {"run.threads", 0, 4096},
    {"run.validate_every", 0, kCount},
    {"run.log_every", 1, kCount},
    {"run.watchdog_seconds", 0, 1e9},
    {"run.skew", 0, 1},
    {"mesh.expert", 1, kCount},
    {"mesh.data", 1, kCount},
    {"mesh.tensor", 1, kCount},
    {"mesh.pipeline", 1, kCount},
    {"model.vocabulary", 2, kCount},
    {"model.width", 1, kCount},
    {"model.layers", 1, 10000},
    {"model.heads", 1, kCount},
    {"model.kv_heads", 1, kCount},
    {"model.head_width", 2, kCount},
    {"model.positions", 1, kCount},
    {"model.experts", 1, kCount},
    {"model.top_k", 1, kCount},
    {"model.hidden", 1, kCount},
    {"model.dense_hidden", 1, kCount},
    {"model.dense_after", 0, kCount},
    {"model.first_dense_layers", 0, kCount},
    {"model.moe_every", 1, kCount},
    {"model.shared_experts", 0, kCount},
    {"model.shared_hidden", 0, kCount},
    {"model.window", 0, kCount},
    {"model.attention_scale", 0, kInfinity, Ends::open},
    {"model.attention_cap", 0, kInfinity, Ends::open_above},
    {"model.embedding_scale", 0, kInfinity, Ends::open},
    {"model.output_scale", 0, kInfinity, Ends::open},
    {"model.rope_base", 1, kInfinity, Ends::open},
    {"model.norm_epsilon", 0, 1, Ends::open_below},
    {"model.dropout", 0, 1, Ends::open_above},
    {"model.expert_dropout", 0, 1, Ends::open_above},
    {"model.router.capacity_factor", 0, kInfinity, Ends::open},
    {"model.router.evaluation_capacity", 0, kInfinity, Ends::open},
    {"model.router.scale", 0, kInfinity, Ends::open},
    {"model.router.jitter", 0, 1, Ends::open_above},
    {"model.router.groups", 1, kCount},
    {"model.router.group_top_k", 1, kCount},
    {"model.router.group_sequences", 1, kCount},
    {"model.router.bias_rate", 0, 1},
    {"model.router.threshold", 0, 1},
    {"model.router.max_experts", 1, kCount},
    {"losses.balance", 0, kInfinity, Ends::open_above},
    {"losses.z", 0, kInfinity, Ends::open_above},
    {"exchange.chunks", 1, kCount},
    {"data.length", 1, kCount},
    {"data.global_batch", 1, kCount},
    {"data.accumulate", 1, kCount},
    {"data.validation_windows", 1, kCount},
    {"data.end_of_text", 0, kCount},
    {"optimizer.peak_rate", 0, kInfinity, Ends::open_above},
    {"optimizer.final_rate", 0, kInfinity, Ends::open_above},
    {"optimizer.warmup_steps", 0, kCount},
    {"optimizer.decay_steps", 0, kCount},
    {"optimizer.beta1", 0, 1, Ends::open_above},
    {"optimizer.beta2", 0, 1, Ends::open_above},
    {"optimizer.epsilon", 0, 1, Ends::open_below},
    {"optimizer.decay", 0, kInfinity, Ends::open_above},
    {"optimizer.clip", 0, kInfinity, Ends::open_above},
    {"optimizer.scale.router", 0, kInfinity, Ends::open_above},
    {"optimizer.scale.expert", 0, kInfinity, Ends::open_above},
    {"optimizer.scale.embedding", 0, kInfinity, Ends::open_above},
    {"checkpoint.every", 0, kCount},
    {"checkpoint.keep", 2, kCount},
    {"checkpoint.keep_every", 0, kCount},
    {"init.deviation", 0, kInfinity, Ends::open_above},
    {"guard.spike_sigma", 0, kInfinity, Ends::open_above},
    {"guard.max_skips", 0, kCount},
};

/// "at least 1", "above 0 and below 1", "from 0 to 4096".
std::string range_of(const Limit& limit, bool whole) {
  const auto number = [](double value) {
    std::ostringstream out;
    out.precision(12);
    out << value;
    return out.str();
  };
  const bool above = limit.ends == Ends::open || limit.ends == Ends::open_below;
  const bool below = limit.ends == Ends::open || limit.ends == Ends::open_above;
  const std::string from = (above ? "above " : "at least ") + number(limit.low);
  if (limit.high == kInfinity) return from + (whole ? "" : " and finite");
  return from + (below ? " and below " : " and at most ") + number(limit.high);
}

void check_limit(const RunConfig& config, const Limit& limit) {
  const pb::Message* holder = &config;
  std::string_view rest = limit.path;
  for (std::size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
    const pb::FieldDescriptor* step = holder->GetDescriptor()->FindFieldByName(std::string(rest.substr(0, dot)));
    holder = &holder->GetReflection()->GetMessage(*holder, step);
    rest.remove_prefix(dot + 1);
  }
  const pb::FieldDescriptor* field = holder->GetDescriptor()->FindFieldByName(std::string(rest));
  check(field != nullptr, "config.proto has no field ", limit.path, ", but there is a limit for it");
  const pb::Reflection& reflection = *holder->GetReflection();
  if (!reflection.HasField(*holder, field) && !field->has_default_value()) return;
  const bool whole = field->cpp_type() == pb::FieldDescriptor::CPPTYPE_INT64;
  const double value = whole ? static_cast<double>(reflection.GetInt64(*holder, field)) : reflection.GetDouble(*holder, field);
  const bool above = limit.ends == Ends::open || limit.ends == Ends::open_below ? value > limit.low : value >= limit.low;
  const bool below = limit.ends == Ends::open || limit.ends == Ends::open_above ? value < limit.high : value <= limit.high;
  if (above && below) return;
  std::string given;
  pb::TextFormat::PrintFieldValueToString(*holder, field, -1, &given);
  fail_input("", limit.path, " is ", given, ", but must be ", range_of(limit, whole));
}
}  // namespace

void check_limits(const RunConfig& config) {
  for (const Limit& limit : kLimits) check_limit(config, limit);
}

void check_available(const RunConfig& config) {
  const auto& run = config.run();
  const auto word = [](auto value, auto name) { return "'" + name(value) + "'"; };
  check_input(run.device() != RunConfig::Device::cuda || kCudaEnabled,
              "run.device is 'cuda', but this build has no CUDA backend: take 'cpu' or 'auto'");
  check_input(run.communication() == RunConfig::Communication::auto_ || run.communication() == RunConfig::Communication::mpi,
              "run.communication is ", word(run.communication(), RunConfig::Communication::Value_Name<RunConfig::Communication::Value>),
              ", which needs a CUDA backend: take 'mpi' or 'auto'");
  check_input(config.mesh().tensor() == 1, "mesh.tensor is ", config.mesh().tensor(),
              ", but splitting matrices over ranks does not exist yet: it must be 1; mesh.expert and mesh.data spread the model");
  check_input(config.mesh().pipeline() == 1, "mesh.pipeline is ", config.mesh().pipeline(),
              ", but splitting layers over ranks does not exist yet: it must be 1; mesh.expert and mesh.data spread the model");
}

}  // namespace yard
