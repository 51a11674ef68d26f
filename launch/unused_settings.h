#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace yard {

/// A field of the configuration, or a whole block, that a command does not read, and the option to use instead, if there is one.
struct UnusedField {
  std::string_view path, instead = {};
};

/// Throws InputError, naming the field, when a `--set path.to.field=value` gives a field that `command` would ignore.
void check_used(std::string_view command, const std::vector<std::string>& settings, const std::vector<UnusedField>& unused);

/// Whether a `--set` gives a field.
bool is_set(const std::vector<std::string>& settings, std::string_view path);

/// What neither eval nor generate reads: only training does.
std::vector<UnusedField> fields_of_training();

}  // namespace yard
