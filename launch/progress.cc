#include "launch/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace yard {

std::string duration_in_words(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02d} min", whole / 3600, whole % 3600 / 60);
}

std::string token_rate(double rate) {
  if (rate < 9999.5) return fmt::format("{:.0f} tokens/s", rate);
  if (rate < 999950) return fmt::format("{:.1f} k tokens/s", rate / 1e3);
  return fmt::format("{:.2f} M tokens/s", rate / 1e6);
}

Progress::Progress(RunLog& log, std::int64_t steps, std::int64_t done, std::int64_t log_every)
    : log_(log), steps_(steps), first_(done + 1), log_every_(log_every) {}

double Progress::seconds_left(std::int64_t step) const {
  return step_seconds_ < 0 ? -1 : step_seconds_ * static_cast<double>(steps_ - step);
}

std::vector<std::string> Progress::parts(std::int64_t step, double loss, double tokens_per_second) const {
  std::vector<std::string> words = {fmt::format("step {}/{}", step, steps_), fmt::format("loss {:.4f}", loss),
                                    token_rate(tokens_per_second)};
  if (step < steps_ && seconds_left(step) >= 0) words.push_back(duration_in_words(seconds_left(step)) + " left");
  return words;
}

void Progress::step(std::int64_t step, double loss, double tokens_per_second, double step_seconds) {
  // The first step holds what happens once; it counts only until there is another.
  constexpr double kWeight = 0.1;
  step_seconds_ = step <= first_ + 1 ? step_seconds : (1 - kWeight) * step_seconds_ + kWeight * step_seconds;
  const std::vector<std::string> words = parts(step, loss, tokens_per_second);
  const bool edge = step == first_ || step >= steps_;
  if (edge || step % log_every_ == 0) {
    const std::string text = fmt::format("{}", fmt::join(words, "  "));
    if (log_.terminal()) {
      log_.file_line(text);
    } else {
      log_.line(text);
    }
  }
  const auto now = std::chrono::steady_clock::now();
  if (!log_.terminal() || (!edge && now - shown_ < std::chrono::milliseconds(100))) return;
  shown_ = now;
  // Whole parts are left out where the terminal is narrow: half a number would mislead.
  std::string text = words[0];
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (static_cast<int>(text.size() + 2 + words[i].size()) >= log_.columns()) break;
    text += "  " + words[i];
  }
  log_.status(text);
}

void Progress::finish() { log_.end_status(); }

}  // namespace yard
