#pragma once

#include <string>
#include <vector>

#include "proto/config.pb.h"

namespace yard {

/// Reads a configuration in text format (proto/config.proto says what it may hold). `name` is how errors call it.
/// Throws InputError that names the line: unknown fields with a suggestion, wrong values with what is right, blocks that are not closed.
RunConfig parse_config(const std::string& text, const std::string& name);
/// The same from a file; throws InputError when it cannot be read.
RunConfig read_config(const std::string& path);
/// Applies one `--set path.to.field=value`. Strings need no quotes; an empty value gives the field its default back.
/// Throws InputError that names the field, with a suggestion for a misspelt path.
void apply_setting(RunConfig&, const std::string& setting);
/// The file, then the settings in their order.
RunConfig load_config(const std::string& path, const std::vector<std::string>& settings);

/// The configuration as a file that parse_config reads back to an equal one.
std::string to_text(const RunConfig&);
/// The text of proto/config.proto: every field with its meaning, unit and default.
std::string config_reference();

}  // namespace yard
