#include <algorithm>
#include <limits>
#include <utility>

#include "core/data/segmenter.h"
#include "core/data/trie.h"

namespace yard {

namespace {

class Unigram final : public Segmenter {
 public:
  explicit Unigram(const std::vector<Piece>& pieces) {
    float lowest = std::numeric_limits<float>::max();
    float highest = std::numeric_limits<float>::min();
    for (const Piece& piece : pieces) {
      if (piece.kind != Piece::Kind::normal) continue;
      lowest = std::min(lowest, piece.score);
      highest = std::max(highest, piece.score);
    }
    unknown_score_ = lowest - 10.0F;
    for (std::size_t id = 0; id < pieces.size(); ++id) {
      const Piece& piece = pieces[id];
      const bool user = piece.kind == Piece::Kind::user_defined;
      // In f64, as the sum of a float product and a double is: f32 would decide some ties differently.
      scores_.push_back(user ? static_cast<double>(static_cast<float>(piece.bytes) * highest) - 0.1 : static_cast<double>(piece.score));
      if (piece.kind != Piece::Kind::normal && !user) continue;
      trie_.insert(piece.text, static_cast<std::int32_t>(id));
      if (piece.text.size() > 1 && piece.text.find('\n') != std::string::npos) newline_inside_ = true;
    }
  }

  void segment(std::string_view text, PieceSink& sink) const override {
    std::vector<Best> best;
    std::vector<std::pair<std::size_t, std::size_t>> path;
    while (!text.empty()) {
      const std::size_t line = newline_inside_ ? text.size() : std::min(text.find('\n'), text.size() - 1) + 1;
      segment_line(text.substr(0, line), sink, best, path);
      text.remove_prefix(line);
    }
  }

 private:
  /// The best cut that ends at a byte: its last piece and the sum of its scores.
  struct Best {
    std::int32_t id = -1;
    float score = 0;
    std::int64_t start = -1;
  };

  static void offer(Best& best, double score, std::size_t start, std::int32_t id) {
    if (best.start < 0 || score > static_cast<double>(best.score)) best = {id, static_cast<float>(score), static_cast<std::int64_t>(start)};
  }

  void segment_line(std::string_view text, PieceSink& sink, std::vector<Best>& best,
                    std::vector<std::pair<std::size_t, std::size_t>>& path) const {
    best.assign(text.size() + 1, {});
    for (std::size_t start = 0; start < text.size();) {
      const std::size_t character = std::min(character_bytes(text[start]), text.size() - start);
      const float before = best[start].score;
      bool single = false;
      std::int32_t node = Trie::kRoot;
      for (std::size_t end = start; end < text.size() && (node = trie_.step(node, text[end])) >= 0;) {
        ++end;
        const std::int32_t id = trie_.value(node);
        if (id < 0) continue;
        offer(best[end], scores_[static_cast<std::size_t>(id)] + static_cast<double>(before), start, id);
        single = single || end - start == character;
      }
      if (!single) offer(best[start + character], static_cast<double>(unknown_score_ + before), start, -1);
      start += character;
    }
    path.clear();
    for (std::size_t end = text.size(); end > 0; end = path.back().first) path.emplace_back(static_cast<std::size_t>(best[end].start), end);
    for (auto part = path.rbegin(); part != path.rend(); ++part) {
      const std::int32_t id = best[part->second].id;
      if (id >= 0) {
        sink.piece(id);
      } else {
        sink.unknown(text.substr(part->first, part->second - part->first));
      }
    }
  }

  Trie trie_;
  std::vector<double> scores_;
  float unknown_score_ = 0;
  bool newline_inside_ = false;
};

}  // namespace

std::unique_ptr<Segmenter> make_unigram(const std::vector<Piece>& pieces) { return std::make_unique<Unigram>(pieces); }

}  // namespace yard
