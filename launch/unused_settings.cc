#include "launch/unused_settings.h"

#include <algorithm>

#include "core/error.h"

namespace yard {

void check_used(std::string_view command, const std::vector<std::string>& settings, const std::vector<UnusedField>& unused) {
  for (const std::string& setting : settings) {
    const std::string_view path = std::string_view(setting).substr(0, setting.find('='));
    for (const UnusedField& field : unused) {
      const bool named = path == field.path || (path.starts_with(field.path) && path.substr(field.path.size()).starts_with('.'));
      check_input(!named, "--set ", setting, ": ", command, " does not use ", path, "; ",
                  field.instead.empty() ? "leave it out" : "give " + std::string(field.instead) + " instead");
    }
  }
}

bool is_set(const std::vector<std::string>& settings, std::string_view path) {
  return std::any_of(settings.begin(), settings.end(),
                     [&](const std::string& setting) { return std::string_view(setting).substr(0, setting.find('=')) == path; });
}

std::vector<UnusedField> fields_of_training() {
  return {{"run.steps"},
          {"run.seed"},
          {"run.validate_every"},
          {"run.log_every"},
          {"model.dropout"},
          {"model.expert_dropout"},
          {"model.recompute"},
          {"model.router.capacity_factor", "model.router.evaluation_capacity"},
          {"model.router.jitter"},
          {"model.router.group_sequences"},
          {"model.router.bias_rate"},
          {"losses"},
          {"data.train", "--data of eval"},
          {"data.validation", "--data of eval"},
          {"data.global_batch", "--batch"},
          {"data.accumulate", "--batch"},
          {"data.order"},
          {"data.validation_windows", "--windows of eval"},
          {"data.seed"},
          {"optimizer"},
          {"checkpoint"},
          {"init"},
          {"guard"}};
}

}  // namespace yard
