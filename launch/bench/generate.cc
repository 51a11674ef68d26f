#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/random.h"
#include "launch/bench/bench.h"
#include "launch/builder.h"
#include "launch/generator.h"

namespace yard::bench {
namespace {

/// Bytes of the weights that one token uses on this rank: all matrices except the embedding, and only the experts that it is routed to.
std::size_t active_bytes(const Model& model, int expert_ranks) {
  const ModelCosts costs = model.transformer->costs();
  std::size_t bytes = 0;
  for (const FlatBuffer& buffer : model.parameters->buffers()) {
    const bool looked_up = buffer.group == 0 && costs.has_output_matrix();  // only one row is read
    if (looked_up) continue;
    // The fraction of this rank's experts that the tokens of its expert group, one per rank, are routed to.
    double spread = 0;
    double active = 0;
    for (const auto& [group, cost] : costs.entries()) {
      if (group != buffer.group || !cost.spread) continue;
      spread += static_cast<double>(cost.parameters);
      active += cost.active;
    }
    const double share = buffer.kind == ParamKind::expert ? active / spread * expert_ranks : 1;
    for (const auto& segment : buffer.segments)
      bytes += static_cast<std::size_t>(share * static_cast<double>(segment.count) * static_cast<double>(size_of(buffer.value.dtype())));
  }
  return bytes;
}

/// Reads a rank's weights with all its threads, as fast as memory gives them: the floor of a token.
class Reading {
 public:
  explicit Reading(const Model& model) {
    for (const FlatBuffer& buffer : model.parameters->buffers()) weights_.push_back(buffer.value);
  }

  /// Seconds to read the next so many bytes, round and round, so that no cache holds them from the time before.
  double seconds(std::size_t bytes) {
    const auto start = Clock::now();
    for (std::size_t left = bytes / sizeof(std::uint64_t); left > 0;) {
      const Tensor& from = weights_[buffer_];
      const std::size_t words = from.bytes() / sizeof(std::uint64_t);
      const std::size_t end = std::min(words, first_ + left);
      add_up(static_cast<const std::uint64_t*>(from.raw()), end);
      left -= end - first_;
      first_ = end;
      if (end == words) {
        first_ = 0;
        buffer_ = (buffer_ + 1) % weights_.size();
      }
    }
    return seconds_between(start, Clock::now());
  }
  std::uint64_t sum() const { return sum_; }

 private:
  void add_up(const std::uint64_t* words, std::size_t end) {
    std::uint64_t sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (std::size_t i = first_; i < end; ++i) sum += words[i];
    sum_ += sum;
  }

  std::vector<Tensor> weights_;
  std::size_t buffer_ = 0, first_ = 0;
  std::uint64_t sum_ = 0;  // so that no compiler leaves the reading out
};

}  // namespace

void generate(RankRuntime& runtime, const Options& options, const RunConfig& config, Index prompt_tokens, Index new_tokens) {
  const int threads = choose_threads(runtime, options.threads);
  const DType dtype = choose_precision(runtime, config.run().precision());
  const auto made = runtime.make_mesh(config.mesh());
  Mesh& mesh = *made;
  Model model = build_model(config, mesh, runtime.stream(), dtype);
  model.allocate(runtime.stream(), mesh, false);
  model.parameters->initialise(runtime.stream(), config.init().seed());

  const Random random(1);
  Generator generator(runtime, *model.transformer, Sampling(), {}, {});
  const auto run = [&](Index number) {
    Line line;
    line.number = static_cast<std::size_t>(number);
    line.live = true;
    for (Index i = 0; i < prompt_tokens; ++i)
      line.ids.push_back(static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(number * prompt_tokens + i)) %
                                                   static_cast<std::uint64_t>(config.model().vocabulary())));
    std::vector<Line> lines = {line};
    std::vector<double> seconds = generator.run(lines, prompt_tokens, new_tokens + 1);  // the prompt gives the first
    return std::pair{seconds.front(), std::accumulate(seconds.begin() + 1, seconds.end(), 0.0) / static_cast<double>(new_tokens)};
  };
  Result prompt;
  prompt.name = fmt::format("prompt of {} tokens", prompt_tokens);
  Result token;
  token.name = "token after it";
  (void)run(0);
  const std::size_t bytes = active_bytes(model, mesh.shape().expert);
  Reading reading(model);
  std::vector<double> floors;
  for (Index number = 0; number < options.repeat; ++number) {
    const auto [first, each] = run(number * mesh.size() + mesh.rank());
    prompt.seconds.push_back(slowest(runtime, first));
    token.seconds.push_back(slowest(runtime, each));
    for (int i = 0; i < 5; ++i) floors.push_back(slowest(runtime, reading.seconds(bytes)));
  }
  check(reading.sum() != 0, "the weights of a new model are all zeros");
  std::sort(prompt.seconds.begin(), prompt.seconds.end());
  std::sort(token.seconds.begin(), token.seconds.end());
  std::sort(floors.begin(), floors.end());
  token.floor.seconds = floors[floors.size() / 2];
  token.floor.library = fmt::format("reading the {:.1f} MB of weights that a token meets", static_cast<double>(bytes) * 1e-6);
  if (mesh.rank() != 0) return;
  report(options, {prompt, token},
         fmt::format("{} tokens after {}, one sequence a rank, {}, {} thread{} a rank, {} rank{}: {:.1f} tokens/s", new_tokens,
                     prompt_tokens, name_of(dtype), threads, threads == 1 ? "" : "s", mesh.size(), mesh.size() == 1 ? "" : "s",
                     static_cast<double>(mesh.size()) / token.median()),
         dtype, threads, mesh.size());
}

}  // namespace yard::bench
