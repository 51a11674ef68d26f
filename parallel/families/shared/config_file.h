#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/io/json.h"
#include "proto/config.pb.h"

namespace yard {

/// A key of config.json and the field of `model` that it corresponds to; `ours` may be a field of `model.router`, such as "router.jitter".
struct ConfigKey {
  const char* theirs;
  const char* ours;
  const char* alternative = nullptr;  // another spelling
  bool required = false;
};

/// A config.json while it is read. Also another JSON file of the same directory.
class ConfigFile {
 public:
  ConfigFile(nlohmann::json content, std::string path) : content_(std::move(content)), path_(std::move(path)) {}

  /// The value of a key, or null where it is missing or null.
  nlohmann::json value(const char* key) const { return content_.contains(key) ? content_[key] : nlohmann::json(); }
  const nlohmann::json& content() const noexcept { return content_; }
  const std::string& path() const noexcept { return path_; }

  /// Records that the file requires something that is not supported: "clip_qkv is 8 (queries are not clipped)".
  void reject(const std::string& problem) { problems_.push_back(problem); }
  /// Rejects a key whose value is neither missing nor null nor `only`: "KEY is VALUE (WHY)".
  void reject_unless(const char* key, const nlohmann::json& only, const std::string& why);
  /// Throws InputError with one sentence that lists everything rejected, if anything was.
  void check_supported() const;

  /// Sets the key's field if the file has the key. Throws InputError if the value has another type, or if a required key is missing.
  void read(const ConfigKey&, RunConfig::Model&) const;

 private:
  nlohmann::json content_;
  std::string path_;
  std::vector<std::string> problems_;
};

/// Sets a number unless the file has it already: conversions to our convention and back may change the last digit.
void set_number(nlohmann::json& file, const char* key, const nlohmann::json& value);

/// The value of the key's field, for writing.
nlohmann::json value_for(const ConfigKey&, const RunConfig::Model&);

/// Keys common to all families, with their fields.
std::vector<ConfigKey> common_keys();
/// Keys common to all families that correspond to no single field: read, or rejected unless they have the one value that is supported.
std::vector<std::string_view> common_rule_keys();
/// Keys that transformers writes and that have no effect here. Like all other keys, they are copied to the checkpoints of a run that starts
/// from the directory; they are the ones that this is not reported for.
std::vector<std::string_view> keys_without_effect();

// Rules that several families share.

/// What no family supports: other activations, scaled rotary positions, biases, quantised weights, encoders, dropout in attention.
void reject_common(ConfigFile&);
/// rope_theta of transformers 4, or rope_parameters of transformers 5.
void read_rotary_base(const ConfigFile&, RunConfig::Model&);
/// losses.balance from router_aux_loss_coef, which is in transformers' convention; `otherwise`: transformers' default.
void read_balance(const ConfigFile&, RunConfig&, double otherwise);
void write_balance(const RunConfig&, nlohmann::json&);

/// Convert between losses.balance and router_aux_loss_coef such that both formulas agree at perfect balance (semantics, section 7): there
/// our loss, summed over MoE layers, is the number of MoE layers, and that of transformers, pooled over layers, is top_k.
double balance_from_hugging_face(double coefficient, std::int64_t moe_layers, std::int64_t top_k);
double balance_to_hugging_face(double balance, std::int64_t moe_layers, std::int64_t top_k);

}  // namespace yard
