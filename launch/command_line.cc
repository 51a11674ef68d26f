#include "launch/command_line.h"

#include <cstring>
#include <iostream>

#include "core/error.h"
#include "launch/config_fields.h"

namespace yard {

namespace po = boost::program_options;

std::optional<po::variables_map> parse_command(int argc, const char* const* argv, const std::string& usage,
                                               const po::options_description& options) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
      std::cout << "Usage: switchyard " << argv[0] << " " << usage << "\n\n" << options << "  --help                 show this text\n";
      return std::nullopt;
    }
  }
  po::variables_map values;
  try {
    // An option must be written out, so that a later one with the same beginning changes nothing; a lone word is no option.
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(options).style(style).positional({}).run(), values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    std::vector<std::string> names;
    for (const auto& option : options.options()) names.push_back("--" + option->long_name());
    const std::string given = error.get_option_name();
    const std::string near = suggestion(given, names);
    fail_input("", argv[0], " has no option '", given, "'", near.empty() ? "; see switchyard " + std::string(argv[0]) + " --help" : near);
  } catch (const po::error& error) {
    fail_input("", argv[0], ": ", error.what(), "; see switchyard ", argv[0], " --help");
  }
  return values;
}

}  // namespace yard
