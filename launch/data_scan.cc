#include "launch/data_scan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/io/json.h"
#include "launch/status_line.h"

namespace yard {
namespace {

YARD_COLLECTIVE kScan{"data.scan"};

using nlohmann::json;
using std::chrono::steady_clock;

constexpr const char* kFile = "/data_scan.json";
constexpr std::chrono::seconds kSlice{1};  // between two collectives

std::string key_of(const TokenStream& stream) {
  json files = json::array();
  for (const FileIdentity& file : stream.identities()) {
    files.push_back(
        {{"path", file.path}, {"size", file.size}, {"device", file.device}, {"inode", file.inode}, {"modified_ns", file.modified}});
  }
  // The same files in another format are other tokens.
  const TokenStream::Segment first = stream.segment_at(0);
  return json_text(json{{"files", files}, {"tokens", stream.length()}, {"id_bytes", bytes_of(first.width)}});
}

std::string words(const TokenStream& stream, Index scanned) {
  return fmt::format("checking the token ids of {}: {} %", stream.name(), scanned * 100 / stream.length());
}

}  // namespace

ScanCache::ScanCache(const std::string& run_directory) {
  try {
    const std::string path = run_directory + kFile;
    if (!path_exists(path)) return;
    const json file = parse_json(read_text_file(path));
    for (const json& each : file.at("scans")) {
      const auto number = [&](const char* name) { return each.at(name).get<std::int64_t>(); };
      known_.emplace_back(json_text(each.at("stream")),
                          TokenScan{number("smallest"), number("largest"), number("smallest_at"), number("largest_at")});
    }
  } catch (const std::exception&) {
    known_.clear();  // a cache that cannot be read costs another scan
  }
}

std::optional<TokenScan> ScanCache::find(const TokenStream& stream) {
  const std::string key = key_of(stream);
  const auto found = std::find_if(known_.begin(), known_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found == known_.end()) return std::nullopt;
  const TokenScan& scan = found->second;
  const auto within = [&](Index position) { return position >= 0 && position < stream.length(); };
  if (!within(scan.smallest_at) || !within(scan.largest_at)) return std::nullopt;
  used_.push_back(*found);
  return scan;
}

void ScanCache::add(const TokenStream& stream, const TokenScan& scan) { used_.emplace_back(key_of(stream), scan); }

void ScanCache::write(const std::string& run_directory) const {
  json scans = json::array();
  for (const auto& [key, scan] : used_) {
    scans.push_back({{"stream", parse_json(key)},
                     {"smallest", scan.smallest},
                     {"smallest_at", scan.smallest_at},
                     {"largest", scan.largest},
                     {"largest_at", scan.largest_at}});
  }
  const std::string path = run_directory + kFile;
  FileWriter file(path + ".tmp");
  file.write(json_text(json{{"scans", scans}}, 1) + "\n");
  file.finish();
  rename_file(path + ".tmp", path);
}

TokenScan scan_on_ranks(RankRuntime& runtime, const TokenStream& stream, ScanCache& cache, const OnScan& progress) {
  constexpr Index kFields = 5;  // the fields of a TokenScan, and the number of ids that were scanned
  const std::optional<TokenScan> known = runtime.rank == 0 ? cache.find(stream) : std::nullopt;
  TokenScan mine = known.value_or(TokenScan());
  const Index part = (stream.length() + runtime.size - 1) / runtime.size;
  const Index first = std::min(stream.length(), part * runtime.rank);
  const Index last = std::min(stream.length(), first + part);
  Index next = first;
  // In slices, so that rank 0 can show the progress of all ranks and no collective is pending for long. The first one finds out whether
  // the cache of rank 0 has the scan.
  for (bool cached = true;; cached = false) {
    if (!cached) {
      const auto end = steady_clock::now() + kSlice;
      next = scan_tokens(stream, next, last, mine, [&] { return steady_clock::now() >= end; });
    }
    const Index scanned = known ? stream.length() : next - first;
    const Tensor values = Tensor::of<std::int64_t>(
        runtime.host, {1, kFields}, std::vector<std::int64_t>{mine.smallest, mine.largest, mine.smallest_at, mine.largest_at, scanned});
    const Tensor all(runtime.host, {runtime.size, kFields}, DType::i64);
    runtime.control.all_gather(runtime.host, {kScan}, values, all, When::now).wait(runtime.host);
    TokenScan scan;
    Index total = 0;
    const auto rows = all.values<std::int64_t>();
    for (std::size_t row = 0; row < rows.size(); row += kFields) {
      scan = merged(scan, {rows[row], rows[row + 1], rows[row + 2], rows[row + 3]});
      total += rows[row + 4];
    }
    if (total >= stream.length()) {
      if (runtime.rank == 0 && !known) cache.add(stream, scan);
      return scan;
    }
    if (runtime.rank == 0 && !cached) progress(stream, total);
  }
}

TokenScan scan_with_status(RankRuntime& runtime, const TokenStream& stream) {
  ScanCache none;
  StatusLine line;
  return scan_on_ranks(runtime, stream, none, [&](const TokenStream& which, Index scanned) { line.show(words(which, scanned)); });
}

ScanProgress::~ScanProgress() { log_.status(""); }

void ScanProgress::operator()(const TokenStream& stream, Index scanned) {
  const std::string text = words(stream, scanned);
  log_.status(text);
  if (log_.terminal() || steady_clock::now() < next_) return;
  next_ = steady_clock::now() + std::chrono::seconds(10);
  log_.line(text);
}

}  // namespace yard
