#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/io/file.h"
#include "core/tensor/tensor.h"
#include "parallel/gradients.h"

namespace yard {

/// What runs in different layouts can be compared by. The sums over any split of a tensor's values add up to those of the tensor.
struct Checksum {
  double sum = 0, squares = 0;
  Index count = 0;  // values
  void add(const Checksum& part) {
    sum += part.sum;
    squares += part.squares;
    count += part.count;
  }
};

/// One step, as one rank or all of them saw it.
struct ProbeStep {
  Index step = 0;  // from 1
  double loss = 0, balance_loss = 0, z_loss = 0;
  GradientReducer::Norms norms;
  std::vector<std::vector<Index>> tokens_per_expert;  // of each MoE layer
  std::map<std::string, Checksum> gradients;          // of each logical tensor: what was summed over ranks and not yet clipped
};

/// The slots of one MoE layer in one micro-batch for consecutive rows of the global batch, before dropping.
struct RoutingBlock {
  Index step = 0, micro = 0, layer = 0;  // step from 1; MoE layers and micro-batches from 0
  Index first_row = 0;                   // global sequence number x length + position
  Index rows = 0;
  std::vector<std::int32_t> token;   // (slots): row, from 0
  std::vector<std::int32_t> expert;  // (slots); -1 where a slot is unused
  std::vector<float> margin;         // (rows): margin to the next expert; infinity if the router has none
};

/// What one rank writes into a probe folder: rank-R.jsonl, a step a line, and rank-R.routing, blocks in the order in which they were made.
/// Nothing in them is a time, so that equal runs write equal bytes.
class ProbeWriter {
 public:
  ProbeWriter(const std::string& folder, int rank);
  void write(const ProbeStep&);
  void write(const RoutingBlock&);
  void finish();

 private:
  FileWriter steps_, routing_;
};

/// The steps of a whole run: everything but the gradients is rank 0's, and these are added up over ranks. Throws Error when files are
/// missing or do not belong together.
std::vector<ProbeStep> read_probe_steps(const std::string& folder, int ranks);

/// Blocks of all ranks, put together, one after another, so that only one lies in memory.
class RoutingReader {
 public:
  RoutingReader(const std::string& folder, int ranks);
  /// The next one; nothing at the end. Throws Error when ranks disagree about which it is.
  std::optional<RoutingBlock> next();

 private:
  std::vector<std::ifstream> files_;
};

/// Whether two probe folders hold the same bytes.
bool same_probe_files(const std::string& a, const std::string& b, int ranks);

}  // namespace yard
