#include "launch/probe_files.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"
#include "core/io/json.h"

namespace yard {
namespace {

using nlohmann::json;

std::string steps_file(const std::string& folder, int rank) { return folder + "/rank-" + std::to_string(rank) + ".jsonl"; }
std::string routing_file(const std::string& folder, int rank) { return folder + "/rank-" + std::to_string(rank) + ".routing"; }

/// A number; one that is not finite is null in JSON.
double number_of(const json& value) { return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>(); }

ProbeStep parse_step(const std::string& line) {
  const json object = parse_json(line);
  ProbeStep step;
  step.step = object.at("step");
  step.loss = number_of(object.at("loss"));
  step.balance_loss = number_of(object.at("balance_loss"));
  step.z_loss = number_of(object.at("z_loss"));
  const json& norms = object.at("norms");
  step.norms = {number_of(norms.at("all")), number_of(norms.at("dense")), number_of(norms.at("router")), number_of(norms.at("expert"))};
  step.tokens_per_expert = object.at("tokens_per_expert").get<std::vector<std::vector<Index>>>();
  for (const auto& [name, values] : object.at("gradients").items()) {
    step.gradients[name] = {number_of(values.at(0)), number_of(values.at(1)), values.at(2)};
  }
  return step;
}

/// Step, micro-batch, layer, first row, rows and slots, before each block's tokens, experts and margins.
using Header = std::array<std::int64_t, 6>;

}  // namespace

ProbeWriter::ProbeWriter(const std::string& folder, int rank) : steps_(steps_file(folder, rank)), routing_(routing_file(folder, rank)) {}

void ProbeWriter::write(const ProbeStep& step) {
  json gradients = json::object();
  for (const auto& [name, sums] : step.gradients) gradients[name] = {sums.sum, sums.squares, sums.count};
  const json object = {
      {"step", step.step},
      {"loss", step.loss},
      {"balance_loss", step.balance_loss},
      {"z_loss", step.z_loss},
      {"norms", {{"all", step.norms.all}, {"dense", step.norms.dense}, {"router", step.norms.router}, {"expert", step.norms.expert}}},
      {"tokens_per_expert", step.tokens_per_expert},
      {"gradients", gradients}};
  steps_.write(object.dump() + "\n");  // with as many digits as give the same number back
}

void ProbeWriter::write(const RoutingBlock& block) {
  routing_.write_value(
      Header{block.step, block.micro, block.layer, block.first_row, block.rows, static_cast<std::int64_t>(block.token.size())});
  routing_.write(std::as_bytes(std::span(block.token)));
  routing_.write(std::as_bytes(std::span(block.expert)));
  routing_.write(std::as_bytes(std::span(block.margin)));
}

void ProbeWriter::finish() {
  steps_.finish();
  routing_.finish();
}

std::vector<ProbeStep> read_probe_steps(const std::string& folder, int ranks) {
  std::vector<ProbeStep> whole;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::string path = steps_file(folder, rank);
    std::ifstream file(path);
    check(file.good(), "cannot read ", path);
    std::size_t at = 0;
    for (std::string line; std::getline(file, line); ++at) {
      ProbeStep step = parse_step(line);
      if (rank == 0) {
        whole.push_back(std::move(step));
        continue;
      }
      check(at < whole.size() && whole[at].step == step.step, "the probe ", path, " has other steps than rank 0's");
      for (const auto& [name, sums] : step.gradients) whole[at].gradients[name].add(sums);
    }
    check(at == whole.size(), "the probe ", path, " has ", at, " steps, rank 0's ", whole.size());
  }
  return whole;
}

RoutingReader::RoutingReader(const std::string& folder, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    files_.emplace_back(routing_file(folder, rank), std::ios::binary);
    check(files_.back().good(), "cannot read ", routing_file(folder, rank));
  }
}

namespace {
/// Appends values from a file.
template <class T>
void read_more(std::ifstream& file, std::vector<T>& values, std::int64_t count) {
  const std::size_t old = values.size();
  values.resize(old + static_cast<std::size_t>(count));
  file.read(reinterpret_cast<char*>(values.data() + old), static_cast<std::streamsize>(count * static_cast<std::int64_t>(sizeof(T))));
}
}  // namespace

std::optional<RoutingBlock> RoutingReader::next() {
  RoutingBlock whole;
  std::size_t ended = 0;
  for (std::size_t rank = 0; rank < files_.size(); ++rank) {
    std::ifstream& file = files_[rank];
    Header header{};
    file.read(reinterpret_cast<char*>(header.data()), sizeof header);
    if (file.gcount() == 0) {
      ++ended;
      continue;
    }
    const auto [step, micro, layer, first_row, rows, slots] = header;
    if (rank == 0) whole = {step, micro, layer, first_row, 0, {}, {}, {}};
    // A rank's rows follow those of the rank before: each takes its contiguous part of the micro-batch's sequences.
    check(ended == 0 && step == whole.step && micro == whole.micro && layer == whole.layer && first_row == whole.first_row + whole.rows,
          "the routing that rank ", rank, " recorded does not continue that of the ranks before it");
    read_more(file, whole.token, slots);
    for (auto token = whole.token.end() - slots; token != whole.token.end(); ++token) *token += static_cast<std::int32_t>(whole.rows);
    read_more(file, whole.expert, slots);
    read_more(file, whole.margin, rows);
    whole.rows += rows;
    check(file.good(), "the routing that rank ", rank, " recorded is cut short");
  }
  check(ended == 0 || ended == files_.size(), "some ranks recorded less routing than others");
  if (ended > 0) return std::nullopt;
  return whole;
}

bool same_probe_files(const std::string& a, const std::string& b, int ranks) {
  const auto same = [](const std::string& left, const std::string& right) {
    const MappedFile x(left);
    const MappedFile y(right);
    return x.text() == y.text();
  };
  for (int rank = 0; rank < ranks; ++rank) {
    if (!same(steps_file(a, rank), steps_file(b, rank)) || !same(routing_file(a, rank), routing_file(b, rank))) return false;
  }
  return true;
}

}  // namespace yard
