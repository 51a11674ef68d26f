#include "core/error.h"
#include "launch/config_reader.h"
#include "tests/fuzz/configurations.h"
#include "tests/fuzz/fuzz.h"

/// A configuration of any bytes is refused by one sentence, or what was read is read again from its text; so are settings, and what the
/// rules make of both. The input is a configuration, and after zero bytes up to three settings.

namespace {

using namespace yard;

constexpr const char* kName = "fuzz.textproto";

void expect_same(const RunConfig& config, const char* what) {
  try {
    fuzz::expect(parse_config(to_text(config), kName).SerializeAsString() == config.SerializeAsString(),
                 std::string(what) + " changes when it is read back");
  } catch (const InputError& error) {
    fuzz::found(std::string("what was written is refused: ") + error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parts = fuzz::parts_of(data, size, 4);
  RunConfig config;
  try {
    config = parse_config(std::string(parts[0]), kName);
    expect_same(config, "a configuration");
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), kName, 1200);
  }
  for (std::size_t i = 1; i < parts.size(); ++i) {
    try {
      apply_setting(config, std::string(parts[i]));
      expect_same(config, "a setting");
    } catch (const InputError& error) {
      fuzz::expect_sentence(error.what(), "--set", 1200);
    }
  }
  try {
    fuzz::expect_resolved(fuzz::resolved(config));
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), "");
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  return fuzz::mutate_text(data, size, limit, seed);
}
