#include "launch/generator.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/ops/loops.h"
#include "core/ops/vector_math.h"
#include "core/random.h"

namespace yard {

namespace {

YARD_COLLECTIVE kGenerate{"generate"};

/// The sum in T of those masses that are at least this large.
template <class T>
T mass_from(std::span<const float> mass, float least) {
  const float* const m = mass.data();
  return ops::lane_sum<T>(static_cast<Index>(mass.size()), [=](Index id) { return m[id] >= least ? m[id] : 0.0F; });
}

/// The largest value for which the masses that are at least as large make up `wanted`. All masses are in [0, 1], where the order of floats
/// is that of their bits, so that thirty halvings find it: no vocabulary is ever sorted.
float least_kept(std::span<const float> mass, double wanted) {
  std::uint32_t enough = 0;
  std::uint32_t too_few = std::bit_cast<std::uint32_t>(1.0F) + 1;
  while (too_few - enough > 1) {
    const std::uint32_t middle = enough + (too_few - enough) / 2;
    (mass_from<float>(mass, std::bit_cast<float>(middle)) >= static_cast<float>(wanted) ? enough : too_few) = middle;
  }
  return std::bit_cast<float>(enough);
}

/// The first of the largest logits of the ids that may be drawn.
std::int32_t likeliest(std::span<const float> logits, std::span<const std::uint8_t> drawable) {
  if (drawable.empty()) return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::size_t best = 0;
  while (best + 1 < drawable.size() && drawable[best] == 0) ++best;
  for (std::size_t id = best + 1; id < logits.size(); ++id) {
    if (drawable[id] != 0 && logits[id] > logits[best]) best = id;
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace

std::vector<std::uint8_t> drawable_ids(const Tokenizer& tokenizer, std::span<const std::int32_t> stop, Index vocabulary) {
  using Kind = PieceTable::Kind;
  const std::vector<PieceTable::Piece>& pieces = tokenizer.table().pieces;
  std::vector<std::uint8_t> drawable(static_cast<std::size_t>(vocabulary), 0);
  for (std::size_t id = 0; id < std::min(pieces.size(), drawable.size()); ++id) {
    const Kind kind = pieces[id].kind;
    drawable[id] = kind == Kind::normal || kind == Kind::user_defined || kind == Kind::byte ? 1 : 0;
  }
  check_input(std::find(drawable.begin(), drawable.end(), 1) != drawable.end(), "the tokenizer has a text for none of the model's ",
              vocabulary, " ids: name the one that the model was trained with (data.tokenizer)");
  for (const std::int32_t id : stop) {
    if (id >= 0 && id < vocabulary) drawable[static_cast<std::size_t>(id)] = 1;
  }
  return drawable;
}

std::int32_t sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t number, std::uint64_t position,
                    std::span<const std::uint8_t> drawable) {
  const auto best = likeliest(logits, drawable);
  if (sampling.temperature <= 0) return best;
  std::vector<float> mass(logits.size());
  const float largest = logits[static_cast<std::size_t>(best)];
  // Finite, so that the largest stays the largest: nothing times infinity is no number.
  const auto colder = static_cast<float>(std::min(1 / sampling.temperature, double{std::numeric_limits<float>::max()}));
#pragma omp simd
  for (std::size_t id = 0; id < mass.size(); ++id) mass[id] = ops::vexp((logits[id] - largest) * colder);
  for (std::size_t id = 0; id < drawable.size(); ++id) mass[id] = drawable[id] != 0 ? mass[id] : 0;
  const double wanted = sampling.top_p * mass_from<double>(mass, 0);
  const float least = least_kept(mass, wanted);
  const double larger = mass_from<double>(mass, std::nextafter(least, 2.0F));
  // Of those that are equal to the least, the first that suffice.
  const double equals = least > 0 ? std::round((mass_from<double>(mass, least) - larger) / least) : 0;
  double taken = least > 0 ? std::clamp(std::ceil((wanted - larger) / least), 1.0, std::max(equals, 1.0)) : 0;
  double draw = (larger + taken * least) * Random(key_of(sampling.seed, key_of("sampling"), number)).uniform(position);
  std::int32_t drawn = best;
  for (std::size_t id = 0; id < mass.size() && draw >= 0; ++id) {
    if (mass[id] < least || mass[id] == 0) continue;
    if (mass[id] == least && taken-- <= 0) continue;
    draw -= mass[id];
    drawn = static_cast<std::int32_t>(id);
  }
  return drawn;
}

std::vector<double> Generator::run(std::vector<Line>& lines, Index longest, Index tokens,
                                   const std::function<void(const std::vector<Line>&)>& after_token) {
  const Index positions = model_.settings().positions;
  KeyValueCache cache = model_.make_cache(runtime_.stream(), static_cast<Index>(lines.size()), std::min(positions, longest + tokens));
  std::vector<std::int32_t> before(lines.size(), 0);  // tokens of each line that the cache holds
  std::vector<double> seconds;
  Index fresh = longest;
  for (Index made = 0; made < tokens; ++made) {
    const auto start = Clock::now();
    const Tensor logits = forward(lines, cache, fresh, made == 0);
    bool live = false;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      Line& line = lines[i];
      if (!line.live) continue;
      before[i] = static_cast<std::int32_t>(line.ids.size());
      const std::int32_t id =
          sample(logits.row_range(static_cast<Index>(i), 1).values<float>(), sampling_, line.number, line.ids.size(), drawable_);
      line.ids.push_back(id);
      line.live = std::find(stop_.begin(), stop_.end(), id) == stop_.end() && static_cast<Index>(line.ids.size()) < positions;
      live = live || line.live;
    }
    if (after_token) after_token(lines);
    runtime_.stream().copy(cache.before().raw(), before.data(), cache.before().bytes());
    fresh = 1;
    const bool more = any(live);
    seconds.push_back(seconds_between(start, Clock::now()));
    if (!more) break;
  }
  return seconds;
}

Tensor Generator::forward(const std::vector<Line>& lines, KeyValueCache& cache, Index fresh, bool prompt) {
  Tokens tokens;
  tokens.sequences = static_cast<Index>(lines.size());
  tokens.length = fresh;
  tokens.sequences_everywhere = tokens.sequences * runtime_.size;
  tokens.cache = &cache;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens.rows()), -1);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens.rows()), 0);
  std::vector<std::int32_t> last(lines.size(), 0);
  for (Index s = 0; s < tokens.sequences; ++s) {
    const Line& line = lines[static_cast<std::size_t>(s)];
    const Index before = prompt ? 0 : static_cast<Index>(line.ids.size()) - 1;
    for (Index r = 0; r < fresh; ++r) {
      const Index at = before + r;
      const bool real = line.live && at < static_cast<Index>(line.ids.size());
      const auto row = static_cast<std::size_t>(s * fresh + r);
      positions[row] = static_cast<std::int32_t>(at);
      if (!real) continue;
      ids[row] = line.ids[static_cast<std::size_t>(at)];
      last[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(row);
    }
  }
  const auto tensor = [&](const std::vector<std::int32_t>& values) {
    return Tensor::of<std::int32_t>(runtime_.stream(), {static_cast<Index>(values.size())}, values);
  };
  tokens.ids = tensor(ids);
  tokens.positions = tensor(positions);
  Context context{runtime_.stream(), runtime_.profiler, tokens, prompt ? Pass::evaluate : Pass::decode};
  const Tensor logits = model_.logits(context, tensor(last));
  return runtime_.gpu ? logits.to(runtime_.stream(), Device{}) : logits;
}

bool Generator::any(bool live) {
  Tensor flag(runtime_.host, {1}, DType::i64);
  flag.data<std::int64_t>()[0] = live ? 1 : 0;
  runtime_.control.all_reduce(runtime_.host, {kGenerate}, flag, Reduce::max, When::now).wait(runtime_.host);
  return flag.data<std::int64_t>()[0] != 0;
}

}  // namespace yard
