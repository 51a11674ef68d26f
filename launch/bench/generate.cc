#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/random.h"
#include "launch/bench/bench.h"
#include "launch/builder.h"
#include "launch/generator.h"
#include "launch/model_from_config.h"

namespace yard::bench {
namespace {

/// Bytes that one token's weights take on this rank: all matrices but the embedding, and of the experts those that a token meets.
struct ActiveWeights {
  std::size_t read = 0;  // in a token
  std::size_t all = 0;
};

ActiveWeights active_weights(const Model& model, const ModelShape& shape, Index expert_ranks) {
  ActiveWeights bytes;
  for (const FlatBuffer& buffer : model.parameters->buffers()) {
    for (const auto& segment : buffer.segments) {
      const std::size_t size = static_cast<std::size_t>(segment.count) * size_of(buffer.value.dtype());
      bytes.all += size;
      const bool looked_up = buffer.group == 0 && !shape.tied_output;  // a row of it
      if (looked_up) continue;
      const bool routed = buffer.kind == ParamKind::expert;
      bytes.read += routed ? size * static_cast<std::size_t>(std::min(shape.top_k, shape.experts)) /
                                 static_cast<std::size_t>(shape.experts / expert_ranks)
                           : size;
    }
  }
  return bytes;
}

/// Seconds in which all threads of this rank read that many bytes, of memory as large as all the weights: the median of some passes.
double reading_seconds(Stream& stream, const ActiveWeights& bytes, Index repeat) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint64_t);
  const std::size_t each = std::max<std::size_t>(bytes.read / 64 * kLine, kLine);
  const auto passes = static_cast<std::size_t>(std::max<Index>(repeat, 5));
  const std::size_t whole = std::max(bytes.all / 64 * kLine, each);
  const Tensor memory = Tensor::zeros(stream, {static_cast<Index>(whole)}, DType::i64);
  const auto* words = memory.data<std::int64_t>();
  std::vector<double> seconds;
  std::int64_t seen = 0;
  std::size_t first = 0;
  for (std::size_t pass = 0; pass < passes; ++pass) {
    if (first + each > whole) first = 0;
    const auto start = Clock::now();
#pragma omp parallel for simd schedule(static) reduction(+ : seen)
    for (std::size_t i = first; i < first + each; ++i) seen += words[i];
    seconds.push_back(seconds_between(start, Clock::now()));
    first += each;
  }
  check(seen == 0, "memory of zeros has other values");
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(passes / 2), seconds.end());
  return seconds[passes / 2];
}

}  // namespace

void generate(RankRuntime& runtime, const Options& options, const RunConfig& config, Index prompt_tokens, Index new_tokens) {
  const ModelShape shape = shape_from_config(config);
  const int threads = choose_threads(runtime, options.threads);
  const DType dtype = choose_precision(runtime, config.run().precision());
  Mesh mesh(std::move(runtime.world), {static_cast<int>(config.mesh().expert()), static_cast<int>(config.mesh().data())});
  Model model = build_model(config, mesh, runtime.stream, dtype);
  model.allocate(runtime.stream, mesh, false);
  model.parameters->initialise(runtime.stream, config.init().seed());

  const Random random(1);
  Generator generator(runtime, mesh.world(), *model.transformer, Sampling(), -1);
  const auto run = [&](Index number) {
    Line line;
    line.number = static_cast<std::size_t>(number);
    line.live = true;
    for (Index i = 0; i < prompt_tokens; ++i)
      line.ids.push_back(static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(number * prompt_tokens + i)) %
                                                   static_cast<std::uint64_t>(shape.vocabulary)));
    std::vector<Line> lines = {line};
    std::vector<double> seconds = generator.run(lines, prompt_tokens, new_tokens + 1);  // the prompt gives the first
    return std::pair{seconds.front(), std::accumulate(seconds.begin() + 1, seconds.end(), 0.0) / static_cast<double>(new_tokens)};
  };
  Result prompt;
  prompt.name = fmt::format("prompt of {} tokens", prompt_tokens);
  Result token;
  token.name = "token after it";
  (void)run(0);
  for (Index number = 0; number < options.repeat; ++number) {
    const auto [first, each] = run(number * mesh.size() + mesh.rank());
    prompt.seconds.push_back(slowest(runtime, mesh.world(), first));
    token.seconds.push_back(slowest(runtime, mesh.world(), each));
  }
  std::sort(prompt.seconds.begin(), prompt.seconds.end());
  std::sort(token.seconds.begin(), token.seconds.end());
  const ActiveWeights bytes = active_weights(model, shape, mesh.shape().expert);
  token.floor.seconds = slowest(runtime, mesh.world(), reading_seconds(runtime.stream, bytes, options.repeat * 4));
  token.floor.library = fmt::format("reading the {:.1f} MB of weights that a token meets", static_cast<double>(bytes.read) * 1e-6);
  if (mesh.rank() != 0) return;
  report(options, {prompt, token},
         fmt::format("{} tokens after {}, one sequence a rank, {}, {} thread{} a rank, {} rank{}: {:.1f} tokens/s", new_tokens,
                     prompt_tokens, name_of(dtype), threads, threads == 1 ? "" : "s", mesh.size(), mesh.size() == 1 ? "" : "s",
                     static_cast<double>(mesh.size()) / token.median()),
         dtype, threads, mesh.size());
}

}  // namespace yard::bench
