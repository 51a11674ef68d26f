#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/data/token_scan.h"
#include "launch/run_log.h"
#include "launch/runtime.h"

namespace yard {

/// Scans of token streams that earlier starts of a run made: RUN/data_scan.json. A scan holds as long as every file of its stream has the
/// path, size, inode and time of modification that it had then.
class ScanCache {
 public:
  /// Empty.
  ScanCache() = default;
  /// What RUN/data_scan.json holds; empty where there is no such file or it cannot be used.
  explicit ScanCache(const std::string& run_directory);
  std::optional<TokenScan> find(const TokenStream& stream);
  void add(const TokenStream& stream, const TokenScan& scan);
  /// Writes the scans that were found or added; throws Error.
  void write(const std::string& run_directory) const;

 private:
  using Entries = std::vector<std::pair<std::string, TokenScan>>;  // of the files as JSON
  Entries known_, used_;
};

/// Called on rank 0 while a scan takes long: ids scanned, and ids of the stream.
using OnScan = std::function<void(const TokenStream& stream, Index scanned)>;

/// The scan of a whole stream, the same on every rank: from `cache`, which rank 0 has, or made by all ranks, each of which scans a part.
/// Collective.
TokenScan scan_on_ranks(RankRuntime&, const TokenStream&, ScanCache& cache, const OnScan& progress);

/// The same without a cache, shown in a status line on stderr: for commands that have no run directory.
TokenScan scan_with_status(RankRuntime&, const TokenStream&);

/// Shows scans in the status line of a log, or in a line of its own every ten seconds where there is no terminal.
class ScanProgress {
 public:
  explicit ScanProgress(RunLog& log) : log_(log) {}
  ScanProgress(const ScanProgress&) = delete;
  ScanProgress& operator=(const ScanProgress&) = delete;
  /// Removes the status line.
  ~ScanProgress();
  void operator()(const TokenStream& stream, Index scanned);

 private:
  RunLog& log_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::seconds(10);
};

}  // namespace yard
