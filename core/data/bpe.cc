#include <algorithm>
#include <bitset>
#include <queue>
#include <unordered_map>
#include <utility>

#include "core/data/flat_map.h"
#include "core/data/segmenter.h"
#include "core/data/trie.h"

namespace yard {

namespace {

/// The bytes of a character as a number: as good as its code point for telling characters apart.
std::uint64_t key_of_character(std::string_view character) {
  std::uint64_t key = 0;
  for (const char c : character) key = (key << 8) | static_cast<unsigned char>(c);
  return key;
}

std::uint64_t key_of_pair(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    const std::size_t size = std::min(character_bytes(text[0]), text.size());
    characters.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return characters;
}

/// Symbols are pieces, by their id, and the characters that occur only inside of pieces, by numbers after the last id. Two symbols can be
/// joined when their union is a piece; all such pairs are listed beforehand. A text is cut wherever two neighbouring characters stand
/// beside each other in no piece, for no join reaches across; most of these chunks are words that are one piece.
class Bpe final : public Segmenter {
 public:
  explicit Bpe(const std::vector<Piece>& pieces) : pieces_(pieces) {
    std::unordered_map<std::string_view, std::int32_t> symbols;
    for (std::size_t id = 0; id < pieces_.size(); ++id) {
      if (pieces_[id].kind != Piece::Kind::other) symbols.emplace(pieces_[id].text, static_cast<std::int32_t>(id));
    }
    for (const Piece& piece : pieces_) {
      if (piece.kind == Piece::Kind::other) continue;
      for (const std::string_view character : characters_of(piece.text)) {
        const auto symbol = symbols.emplace(character, static_cast<std::int32_t>(pieces_.size() + inner_.size()));
        if (symbol.second) inner_.push_back(character);
        characters_.insert(key_of_character(character), symbol.first->second);
      }
    }
    for (std::size_t id = 0; id < pieces_.size(); ++id) add_piece(static_cast<std::int32_t>(id), symbols);
    for (std::size_t id = 0; id < pieces_.size(); ++id) {
      if (pieces_[id].kind == Piece::Kind::normal && is_whole(static_cast<std::int32_t>(id)))
        whole_.insert(pieces_[id].text, static_cast<std::int32_t>(id));
    }
  }

  void segment(std::string_view text, PieceSink& sink) const override {
    Work work;
    std::size_t begin = 0;   // of the chunk
    std::size_t before = 0;  // where the chunk's last character begins
    for (std::size_t at = 0; at < text.size();) {
      std::int32_t user = -1;
      const std::size_t found = user_starts_[static_cast<unsigned char>(text[at])] ? user_.longest_prefix(text.substr(at), user) : 0;
      if (found > 0) {
        segment_chunk(text.substr(begin, at - begin), sink, work);
        sink.piece(user);
        at += found;
        begin = at;
      } else {
        const std::size_t size = std::min(character_bytes(text[at]), text.size() - at);
        if (at > begin && !neighbours(text.substr(before, at - before), text.substr(at, size))) {
          segment_chunk(text.substr(begin, at - begin), sink, work);
          begin = at;
        }
        before = at;
        at += size;
      }
    }
    segment_chunk(text.substr(begin), sink, work);
  }

 private:
  struct Symbol {
    std::int32_t id = -1;  // -1: a character that is in no piece
    std::size_t begin = 0, size = 0;
    std::int32_t before = -1, after = -1;
  };
  struct Join {
    float score;
    std::int32_t left, right;
    std::size_t size;
    std::int32_t id;
    bool operator<(const Join& other) const { return score < other.score || (score == other.score && left > other.left); }
  };
  /// What a segmentation needs for a while; kept from chunk to chunk.
  struct Work {
    std::vector<Symbol> symbols;
    std::vector<Join> agenda;                                                       // a heap
    std::unordered_map<std::int32_t, std::pair<std::int32_t, std::int32_t>> parts;  // of unused pieces
  };

  void add_piece(std::int32_t id, const std::unordered_map<std::string_view, std::int32_t>& symbols) {
    const Piece& piece = pieces_[static_cast<std::size_t>(id)];
    if (piece.kind == Piece::Kind::other) return;
    if (piece.kind == Piece::Kind::user_defined) {
      user_.insert(piece.text, id);
      user_starts_.set(static_cast<unsigned char>(piece.text[0]));
    }
    const std::vector<std::string_view> characters = characters_of(piece.text);
    std::size_t at = 0;
    for (std::size_t i = 1; i < characters.size(); ++i) {
      mark_neighbours(characters[i - 1], characters[i]);
      at += characters[i - 1].size();
      const std::string_view text = piece.text;
      const auto left = symbols.find(text.substr(0, at));
      const auto right = symbols.find(text.substr(at));
      if (left != symbols.end() && right != symbols.end()) joins_.insert(key_of_pair(left->second, right->second), id);
    }
  }

  void mark_neighbours(std::string_view left, std::string_view right) {
    const std::uint64_t a = key_of_character(left);
    const std::uint64_t b = key_of_character(right);
    if (a < 128 && b < 128) ascii_neighbours_.set(a * 128 + b);
    neighbours_.insert((a << 32) | b, 1);
  }

  bool neighbours(std::string_view left, std::string_view right) const {
    const std::uint64_t a = key_of_character(left);
    const std::uint64_t b = key_of_character(right);
    return a < 128 && b < 128 ? ascii_neighbours_[a * 128 + b] : neighbours_.find((a << 32) | b) >= 0;
  }

  /// Whether a chunk of exactly this text becomes exactly this piece; joins of higher score may prevent it.
  bool is_whole(std::int32_t id) const {
    class Count final : public PieceSink {
     public:
      void piece(std::int32_t piece) override {
        last = piece;
        ++count;
      }
      void unknown(std::string_view /*character*/) override { ++count; }
      std::int32_t last = -1;
      int count = 0;
    } counted;
    Work work;
    join_chunk(pieces_[static_cast<std::size_t>(id)].text, counted, work);
    return counted.count == 1 && counted.last == id;
  }

  void segment_chunk(std::string_view chunk, PieceSink& sink, Work& work) const {
    if (chunk.empty()) return;
    std::int32_t id = -1;
    if (chunk.size() <= kLongestWhole && whole_.longest_prefix(chunk, id) == chunk.size()) {
      sink.piece(id);
    } else {
      join_chunk(chunk, sink, work);
    }
  }

  void offer(Work& work, std::int32_t left, std::int32_t right) const {
    if (left < 0 || right < 0) return;
    const Symbol& a = work.symbols[static_cast<std::size_t>(left)];
    const Symbol& b = work.symbols[static_cast<std::size_t>(right)];
    if (a.id < 0 || b.id < 0) return;
    const std::int32_t id = joins_.find(key_of_pair(a.id, b.id));
    if (id < 0) return;
    const Piece& piece = pieces_[static_cast<std::size_t>(id)];
    work.agenda.push_back({piece.score, left, right, a.size + b.size, id});
    std::push_heap(work.agenda.begin(), work.agenda.end());
    if (piece.kind == Piece::Kind::unused) work.parts[id] = {a.id, b.id};
  }

  void join_chunk(std::string_view chunk, PieceSink& sink, Work& work) const {
    work.symbols.clear();
    work.agenda.clear();
    work.parts.clear();
    for (std::size_t at = 0; at < chunk.size();) {
      const std::size_t size = std::min(character_bytes(chunk[at]), chunk.size() - at);
      const auto index = static_cast<std::int32_t>(work.symbols.size());
      work.symbols.push_back({characters_.find(key_of_character(chunk.substr(at, size))), at, size, index - 1, index + 1});
      at += size;
    }
    work.symbols.back().after = -1;
    for (std::size_t i = 1; i < work.symbols.size(); ++i) offer(work, static_cast<std::int32_t>(i) - 1, static_cast<std::int32_t>(i));
    while (!work.agenda.empty()) {
      const Join join = work.agenda.front();
      std::pop_heap(work.agenda.begin(), work.agenda.end());
      work.agenda.pop_back();
      Symbol& left = work.symbols[static_cast<std::size_t>(join.left)];
      Symbol& right = work.symbols[static_cast<std::size_t>(join.right)];
      if (left.size == 0 || right.size == 0 || left.size + right.size != join.size) continue;  // one of them has been joined meanwhile
      left.id = join.id;
      left.size = join.size;
      left.after = right.after;
      if (right.after >= 0) work.symbols[static_cast<std::size_t>(right.after)].before = join.left;
      right.size = 0;
      offer(work, left.before, join.left);
      offer(work, join.left, left.after);
    }
    for (std::int32_t index = 0; index >= 0; index = work.symbols[static_cast<std::size_t>(index)].after) {
      const Symbol& symbol = work.symbols[static_cast<std::size_t>(index)];
      emit(symbol.id, chunk.substr(symbol.begin, symbol.size), sink, work);
    }
  }

  void emit(std::int32_t id, std::string_view text, PieceSink& sink, const Work& work) const {
    if (id < 0 || static_cast<std::size_t>(id) >= pieces_.size()) return sink.unknown(text);
    const auto parts = pieces_[static_cast<std::size_t>(id)].kind == Piece::Kind::unused ? work.parts.find(id) : work.parts.end();
    if (parts == work.parts.end()) return sink.piece(id);
    const auto [left, right] = parts->second;
    const std::size_t size = static_cast<std::size_t>(left) < pieces_.size()
                                 ? pieces_[static_cast<std::size_t>(left)].text.size()
                                 : inner_[static_cast<std::size_t>(left) - pieces_.size()].size();
    emit(left, text.substr(0, size), sink, work);
    emit(right, text.substr(size), sink, work);
  }

  static constexpr std::size_t kLongestWhole = 64;  // bytes; longer chunks are rarely one piece, and are not walked twice

  std::vector<Piece> pieces_;
  std::vector<std::string_view> inner_;  // characters that are no pieces themselves, views of pieces_
  FlatMap characters_;                   // character to symbol
  FlatMap joins_;                        // pair of symbols to piece
  FlatMap neighbours_;                   // pairs of characters that stand beside each other in a piece
  std::bitset<std::size_t{128} * 128> ascii_neighbours_;
  Trie whole_, user_;
  std::bitset<256> user_starts_;
};

}  // namespace

std::unique_ptr<Segmenter> make_bpe(const std::vector<Piece>& pieces) { return std::make_unique<Bpe>(pieces); }

}  // namespace yard
