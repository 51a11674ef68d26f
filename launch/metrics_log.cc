#include "launch/metrics_log.h"

#include <google/protobuf/util/json_util.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace yard {

namespace pb = google::protobuf;

std::string metrics_line(const StepMetrics& metrics) {
  pb::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string line;
  const auto status = pb::util::MessageToJsonString(metrics, &line, options);
  check(status.ok(), "cannot write the metrics of step ", metrics.step(), " as JSON: ", status.ToString());
  return line + "\n";
}

void forget_metrics_after(const std::string& run_directory, std::int64_t last_step) {
  const std::string path = run_directory + "/metrics.jsonl";
  if (!std::filesystem::is_regular_file(path)) return;  // a pipe or a device has no lines to keep
  std::ifstream old(path, std::ios::binary);
  check(old.good(), "cannot read ", path);
  const std::string next = path + ".new";
  std::filesystem::remove(next);
  {
    AppendFile kept(next);
    pb::util::JsonParseOptions options;
    options.ignore_unknown_fields = true;
    for (std::string line; std::getline(old, line) && !old.eof();) {
      StepMetrics metrics;
      const bool whole = pb::util::JsonStringToMessage(line, &metrics, options).ok();
      if (whole && metrics.step() <= last_step) kept.write(line + "\n");
    }
  }
  std::error_code error;
  std::filesystem::rename(next, path, error);
  check(!error, "cannot write ", path, ": ", error.message());
}

}  // namespace yard
