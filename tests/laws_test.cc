// The laws of the design that can be read off the sources: who includes whom, and what no file may hold. Each breach is named by file and
// line. The rules are functions of sources given as text, so that they are tested on planted breaches before they judge the repository.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace yard {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Source {
  std::string path;  // from the root, such as core/ops/norm.cc
  std::vector<std::string> lines;
};
using Breaches = std::vector<std::string>;

constexpr std::array<const char*, 4> kLayers = {"core", "comm", "parallel", "launch"};
constexpr std::array<const char*, 6> kFolders = {"core", "comm", "parallel", "proto", "launch", "tests"};

std::string top(const std::string& path) { return path.substr(0, path.find('/')); }

/// Place of a folder in core <- comm <- parallel <- launch <- tests; -1 for any other.
int height(const std::string& folder) {
  if (folder == "tests") return static_cast<int>(kLayers.size());
  const auto* const found = std::find(kLayers.begin(), kLayers.end(), folder);
  return found == kLayers.end() ? -1 : static_cast<int>(found - kLayers.begin());
}

bool under(const std::string& path, const std::string& folder) { return path.rfind(folder + "/", 0) == 0; }
bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string without_comment(const std::string& line) { return line.substr(0, line.find("//")); }

std::string at(const Source& source, std::size_t line, const std::string& what) {
  return source.path + ":" + std::to_string(line + 1) + ": " + what;
}

struct Include {
  std::size_t line;
  char kind;  // '"' or '<'
  std::string path;
};

std::vector<Include> includes(const Source& source) {
  static const std::regex pattern(R"(^\s*#\s*include\s*(["<])([^">]+)[">].*)");
  std::vector<Include> found;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    std::smatch match;
    if (std::regex_match(source.lines[i], match, pattern)) found.push_back({i, match[1].str()[0], match[2].str()});
  }
  return found;
}

/// core <- comm <- parallel <- launch; proto is read by parallel and launch only, a proto of core/data by core/data only.
Breaches include_direction(const Source& source) {
  Breaches breaches;
  const int mine = height(top(source.path));
  for (const Include& include : includes(source)) {
    if (include.kind != '"') continue;
    const std::string folder = top(include.path);
    if (include.path.find('/') == std::string::npos || include.path.find("..") != std::string::npos) {
      breaches.push_back(at(source, include.line, include.path + " must be included by its path from the root"));
    } else if (folder == "proto") {
      if (mine < height("parallel")) breaches.push_back(at(source, include.line, "only parallel, launch and tests may include proto"));
    } else if (ends_with(include.path, ".pb.h")) {
      const std::string home = include.path.substr(0, include.path.rfind('/'));
      if (mine < height("tests") && !under(source.path, home)) {
        breaches.push_back(at(source, include.line, include.path + " may be included in its own folder only"));
      }
    } else if (height(folder) > mine) {
      breaches.push_back(at(source, include.line, top(source.path) + " may not include " + folder));
    }
  }
  return breaches;
}

/// A foreign library has one home: nothing else of ours knows that it is there.
Breaches library_homes(const Source& source) {
  struct Home {
    const char* pattern;
    std::vector<std::string> folders;
  };
  static const std::vector<Home> homes = {
      {R"(mpi(-ext)?\.h)", {"comm", "tests/comm", "tests/support", "tests/cuda_emulation"}},
      {R"((oneapi/dnnl/.*|dnnl(\.h|\.hpp|_.*)))", {"core/ops", "tests/core/ops"}},
      {R"((nccl|cuda_runtime|cuda_runtime_api|cublas_v2|cublasLt|nvtx3/.*)\.h)",
       {"core/device", "core/ops", "comm", "tests/cuda_emulation"}},
  };
  Breaches breaches;
  for (const Include& include : includes(source)) {
    for (const Home& home : homes) {
      if (!std::regex_match(include.path, std::regex(home.pattern))) continue;
      if (std::any_of(home.folders.begin(), home.folders.end(), [&](const std::string& folder) { return under(source.path, folder); }))
        continue;
      breaches.push_back(at(source, include.line, include.path + " may be included under " + home.folders.front() + " only"));
    }
  }
  return breaches;
}

/// What builds on the CUDA language is compiled with it, or emulated.
Breaches cuda_language(const Source& source) {
  Breaches breaches;
  if (ends_with(source.path, ".cu") || under(source.path, "core/device") || source.path.rfind("core/ops/gpu", 0) == 0 ||
      top(source.path) == "tests")
    return breaches;
  for (const Include& include : includes(source)) {
    if (include.path.rfind("core/device/cuda", 0) == 0)
      breaches.push_back(at(source, include.line, include.path + " may be included by .cu files only"));
  }
  return breaches;
}

/// The own header comes first, so that every header is known to stand on its own.
Breaches own_header_first(const Source& source, const std::vector<Source>& all) {
  if (!ends_with(source.path, ".cc")) return {};
  const std::string header = source.path.substr(0, source.path.size() - 2) + "h";
  if (std::none_of(all.begin(), all.end(), [&](const Source& other) { return other.path == header; })) return {};
  const auto found = includes(source);
  if (!found.empty() && found.front().path == header) return {};
  return {at(source, found.empty() ? 0 : found.front().line, "the first include must be " + header)};
}

/// No `#if` about hardware or a backend: one generated constant says what was built.
Breaches hardware_conditions(const Source& source) {
  static const std::regex condition(R"(^\s*#\s*(if|ifdef|ifndef|elif|elifdef)\b.*)");
  static const std::regex hardware(R"(CUDA|GPU|NCCL|MPI|DNNL|AMX|AVX|SSE|__x86_64__|__aarch64__|__ARM|__NVCC__|HIP)");
  Breaches breaches;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    if (std::regex_match(source.lines[i], condition) && std::regex_search(without_comment(source.lines[i]), hardware)) {
      breaches.push_back(at(source, i, "a condition about hardware; kernels are chosen in dispatch(), by files"));
    }
  }
  return breaches;
}

Breaches style(const Source& source) {
  static const std::regex opens(R"(^\s*using\s+namespace\b.*)");
  static const std::regex macro(R"(^\s*#\s*define\s+\w+\(.*)");
  Breaches breaches;
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    const std::string& line = source.lines[i];
    if (!under(source.path, "tests") && std::regex_match(line, opens)) breaches.push_back(at(source, i, "using namespace outside tests"));
    if (std::regex_match(line, macro)) breaches.push_back(at(source, i, "a function-like macro; write a function"));
  }
  if (ends_with(source.path, ".h")) {
    const auto first = std::find_if(source.lines.begin(), source.lines.end(), [](const std::string& line) {
      return without_comment(line).find_first_not_of(" \t") != std::string::npos;
    });
    if (first == source.lines.end() || *first != "#pragma once") {
      breaches.push_back(at(source, static_cast<std::size_t>(first - source.lines.begin()), "a header begins with #pragma once"));
    }
  }
  return breaches;
}

/// A .cu holds the CUDA kernels of the .cc of the same name.
Breaches twins(const std::vector<Source>& all) {
  Breaches breaches;
  for (const Source& source : all) {
    if (!ends_with(source.path, ".cu")) continue;
    const std::string twin = source.path.substr(0, source.path.size() - 1) + "c";
    if (std::none_of(all.begin(), all.end(), [&](const Source& other) { return other.path == twin; })) {
      breaches.push_back(source.path + ":1: its twin " + twin + " with contract and checks is missing");
    }
  }
  return breaches;
}

Breaches judge(const std::vector<Source>& sources) {
  Breaches all = twins(sources);
  for (const Source& source : sources) {
    for (const Breaches& some : {include_direction(source), library_homes(source), own_header_first(source, sources), cuda_language(source),
                                 hardware_conditions(source), style(source)}) {
      all.insert(all.end(), some.begin(), some.end());
    }
  }
  return all;
}

std::vector<Source> repository() {
  std::vector<Source> sources;
  const std::filesystem::path root(YARD_SOURCE);
  for (const char* folder : kFolders) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (!entry.is_regular_file() || (extension != ".h" && extension != ".cc" && extension != ".cu")) continue;
      Source source{std::filesystem::relative(entry.path(), root).generic_string(), {}};
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) source.lines.push_back(line);
      sources.push_back(std::move(source));
    }
  }
  return sources;
}

std::string listed(const Breaches& breaches) {
  std::string text;
  for (const std::string& breach : breaches) text += "\n  " + breach;
  return text;
}

TEST(Laws, TheRepositoryKeepsThem) {
  const std::vector<Source> sources = repository();
  for (const char* folder : kLayers) {
    EXPECT_TRUE(std::any_of(sources.begin(), sources.end(), [&](const Source& source) { return under(source.path, folder); }))
        << "no source was found under " << folder;
  }
  const Breaches breaches = judge(sources);
  EXPECT_TRUE(breaches.empty()) << listed(breaches);
}

TEST(Laws, EveryFolderSaysWhatLivesThere) {
  for (const char* folder : kFolders) {
    const auto readme = std::filesystem::path(YARD_SOURCE) / folder / "README.md";
    EXPECT_TRUE(std::filesystem::exists(readme)) << readme << " is missing: what lives there, what it may include, how to add one more";
  }
}

// ------------------------------------------------------------------------------------------------------------- the rules see what they
// forbid

TEST(LawsOnPlantedSources, ACleanSetPasses) {
  EXPECT_THAT(judge({{"core/a.h", {"// words", "", "#pragma once", "#include <vector>"}},
                     {"core/a.cc", {"#include \"core/a.h\"", "", "#include <omp.h>", "#include \"core/error.h\""}},
                     {"core/ops/host/m.cc", {"#include <oneapi/dnnl/dnnl.hpp>", "#if __has_include(<x.h>)", "#define LIMIT 3", "#endif"}},
                     {"core/data/s.cc", {"#include \"core/data/sentencepiece.pb.h\""}},
                     {"comm/m.cc", {"#include <mpi.h>", "#include \"core/a.h\""}},
                     {"parallel/p.cc", {"#include \"proto/config.pb.h\"", "#include \"comm/c.h\""}},
                     {"launch/l.cc", {"#include \"parallel/p.h\"", "#include \"launch/o.h\""}},
                     {"tests/t_test.cc", {"using namespace std;", "#include \"launch/o.h\"", "#include \"tests/support/support.h\""}}}),
              IsEmpty());
}

struct Planted {
  Source source;
  const char* breach;
};

class LawsOnPlantedSources : public ::testing::TestWithParam<Planted> {};

TEST_P(LawsOnPlantedSources, ABreachIsNamedByFileAndLine) {
  const Breaches breaches = judge({GetParam().source, {"core/norm.h", {"#pragma once"}}});
  ASSERT_EQ(breaches.size(), 1U) << listed(breaches);
  EXPECT_THAT(breaches, Contains(HasSubstr(GetParam().breach)));
}

INSTANTIATE_TEST_SUITE_P(
    Each, LawsOnPlantedSources,
    ::testing::Values(Planted{{"core/x.cc", {"", "#include \"comm/communicator.h\""}}, "core/x.cc:2: core may not include comm"},
                      Planted{{"comm/x.cc", {"#include \"parallel/mesh.h\""}}, "comm/x.cc:1: comm may not include parallel"},
                      Planted{{"parallel/x.h", {"#pragma once", "# include \"launch/options.h\""}}, "parallel/x.h:2: parallel may not"},
                      Planted{{"launch/x.cc", {"#include \"tests/support/support.h\""}}, "launch may not include tests"},
                      Planted{{"comm/x.cc", {"#include \"proto/config.pb.h\""}}, "only parallel, launch and tests may include proto"},
                      Planted{{"launch/x.cc", {"#include \"core/data/sentencepiece.pb.h\""}}, "in its own folder only"},
                      Planted{{"core/x.cc", {"#include \"norm.h\""}}, "by its path from the root"},
                      Planted{{"parallel/x.cc", {"#include <mpi.h>"}}, "parallel/x.cc:1: mpi.h may be included under comm only"},
                      Planted{{"core/nn/x.cc", {"#include <dnnl.hpp>"}}, "dnnl.hpp may be included under core/ops only"},
                      Planted{{"core/nn/x.cc", {"#include \"core/device/cuda.h\""}},
                              "core/device/cuda.h may be included by .cu files only"},
                      Planted{{"core/norm.cc", {"#include <vector>", "#include \"core/norm.h\""}}, "core/norm.cc:1: the first include"},
                      Planted{{"core/x.cc", {"#ifdef __AVX512F__"}}, "core/x.cc:1: a condition about hardware"},
                      Planted{{"core/x.cc", {"int a;", "#if defined(YARD_CUDA)"}}, "core/x.cc:2: a condition about hardware"},
                      Planted{{"core/x.cc", {"using namespace std;"}}, "using namespace outside tests"},
                      Planted{{"core/x.cc", {"#define MAX(a, b) a"}}, "a function-like macro"},
                      Planted{{"core/x.h", {"// words", "#include <vector>", "#pragma once"}}, "core/x.h:2: a header begins with"},
                      Planted{{"core/x.cu", {""}}, "its twin core/x.cc with contract and checks is missing"}));

}  // namespace
}  // namespace yard
