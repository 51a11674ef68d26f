#include "launch/growing_text.h"

#include "core/data/utf8.h"

namespace yard {

void GrowingText::show(std::span<const std::int32_t> ids) {
  for (; printed_ < ids.size(); ++printed_) {
    const std::int32_t id = ids[printed_];
    if (id < 0 || id >= tokenizer_.vocabulary()) continue;
    pending_ += tokenizer_.bytes(before_, id);
    before_ = id;
  }
  const std::size_t whole = pending_.size() - utf8_unfinished(pending_);
  out_ << std::string_view(pending_).substr(0, whole) << std::flush;
  pending_.erase(0, whole);
}

void GrowingText::finish() {
  out_ << pending_ << "\n" << std::flush;
  pending_.clear();
}

}  // namespace yard
