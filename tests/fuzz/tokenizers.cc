#include "tests/fuzz/tokenizers.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/data/hugging_face_tokenizer.h"
#include "core/io/json.h"
#include "tests/fuzz/fuzz.h"

namespace yard::fuzz {
namespace {

std::vector<std::string> texts_for(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> texts = {"",
                                    " ",
                                    "  a  b ",
                                    "Two words\nand a line.\n\n\tx\r\n",
                                    "na\xc3\xafve \xe2\x96\x81 \xf0\x9f\x99\x82",
                                    "\xff\xc3(\xed\xa0\x80 \xf0\x9f",
                                    "</s><s><unk><0x41>"};
  texts.emplace_back(text.substr(0, 200));
  std::string pieces;
  for (const PieceTable::Piece& piece : tokenizer.table().pieces) {
    if (pieces.size() > 400) break;
    pieces += piece.text;
  }
  texts.push_back(pieces);
  texts.push_back(" " + pieces + "\n" + pieces);
  return texts;
}

void expect_text(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  for (const std::int32_t id : ids) expect(id >= 0 && id < tokenizer.vocabulary(), "an id is outside of the vocabulary");
  const std::string decoded = tokenizer.decode(ids);
  if (tokenizer.lossless()) expect(decoded == text, "a text is not given back: '" + text + "' became '" + decoded + "'");
  if (!tokenizer.splits_at_newlines()) return;
  std::vector<std::int32_t> by_line;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t size = std::min(rest.find('\n'), rest.size() - 1) + 1;
    tokenizer.encode(rest.substr(0, size), by_line);
    rest.remove_prefix(size);
  }
  expect(by_line == ids, "other ids line by line: '" + text + "'");
}

void expect_files(const Tokenizer& tokenizer) {
  const HuggingFaceTokenizer files = hugging_face_tokenizer(tokenizer);
  const nlohmann::json file = parse_json(files.tokenizer_json);
  expect(file.is_object() && parse_json(files.config_json).is_object(), "tokenizer.json is not JSON");
  expect(file.at("model").at("vocab").size() == static_cast<std::size_t>(tokenizer.vocabulary()), "tokenizer.json has other pieces");
  expect_sentence(files.differs, "");
}

}  // namespace

void expect_sound(const Tokenizer& tokenizer, std::string_view text) {
  const Index size = tokenizer.vocabulary();
  expect(size > 0 && static_cast<std::size_t>(size) == tokenizer.table().pieces.size(), "the table has other pieces");
  expect(tokenizer.end_of_text() >= 0 && tokenizer.end_of_text() < size, "the end of text is outside of the vocabulary");
  expect(tokenizer.bytes(tokenizer.end_of_text(), tokenizer.end_of_text()).empty(), "the end of text has a text");
  for (std::int32_t id = 0; id < std::min<Index>(size, 1000); ++id) {
    expect(tokenizer.bytes(id, id).size() >= tokenizer.bytes(tokenizer.end_of_text(), id).size(), "a text is longer at the start");
    expect(std::isfinite(tokenizer.table().pieces[static_cast<std::size_t>(id)].score), "a score is not finite");
  }
  for (const std::string& each : texts_for(tokenizer, text)) expect_text(tokenizer, each);
  if (size < 1000) expect_files(tokenizer);
}

}  // namespace yard::fuzz
