#pragma once

#include <boost/program_options.hpp>
#include <optional>
#include <string>

namespace yard {

/// The options of a subcommand, argv[0] being its name. With --help, prints what the command does and its options with their defaults, and
/// returns nothing. Throws InputError for options that are unknown, missing or malformed.
std::optional<boost::program_options::variables_map> parse_command(int argc, const char* const* argv, const std::string& usage,
                                                                   const boost::program_options::options_description& options);

}  // namespace yard
