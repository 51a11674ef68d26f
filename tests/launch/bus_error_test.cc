#include "launch/bus_error.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "core/io/file.h"
#include "tests/support/support.h"

using namespace yard;
namespace fs = std::filesystem;

namespace {

/// Reads all of a mapped file after it became shorter.
void read_shortened(const std::string& path) {
  report_bus_errors();
  const MappedFile other("/proc/self/exe");
  const MappedFile file(path);
  fs::resize_file(path, 100);
  std::exit(std::accumulate(file.text().begin(), file.text().end(), 0) == 0 ? 3 : 4);
}

TEST(BusError, AMappedFileThatBecameShorterIsNamed) {
  const test::TemporaryFolder folder;
  const std::string path = folder / "a file (with spaces).bin";
  std::ofstream(path) << std::string(100000, 'x');
  EXPECT_EXIT(read_shortened(path), testing::ExitedWithCode(1),
              "switchyard: cannot access .*/a file .with spaces..bin .SIGBUS.: it became shorter");
}

TEST(BusError, ARankSaysWhichOneItIs) {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "t") << std::string(100000, 'x');
  const auto body = [&] {
    ::setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    read_shortened(folder / "t");
  };
  EXPECT_EXIT(body(), testing::ExitedWithCode(1), "rank 3: cannot access .*/t .SIGBUS.");
}

}  // namespace
