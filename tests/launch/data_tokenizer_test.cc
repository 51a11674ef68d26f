#include "launch/data_tokenizer.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"

namespace yard {
namespace {

using testing::HasSubstr;

struct Outcome {
  RunConfig config;
  std::unique_ptr<const Tokenizer> tokenizer;
  std::string note, error;
};

Outcome open(const std::string& fields, const TokenStream& stream, std::int64_t largest) {
  Outcome outcome;
  try {
    const RunConfig given = parse_config("model { vocabulary: 50304 } data { train: 'x' " + fields + " }", "c");
    outcome.config = resolve(given, 1);
    outcome.tokenizer = open_data_tokenizer(outcome.config);
    outcome.note = match_tokenizer(outcome.config, outcome.tokenizer, given.data().has_tokenizer(), {{&stream, largest, 7}});
  } catch (const InputError& error) {
    outcome.error = error.what();
  }
  return outcome;
}

TEST(DataTokenizer, TheDefaultFitsTheDataOrIsNone) {
  const TokenStream stream({1, 2, 3}, "tokens");
  const Outcome bytes = open("", stream, 256);
  EXPECT_EQ(bytes.config.data().tokenizer(), "bytes");
  EXPECT_EQ(bytes.config.data().end_of_text(), 256);
  EXPECT_EQ(bytes.note, "");
  EXPECT_NE(bytes.tokenizer, nullptr);
  const Outcome gpt2 = open("", stream, 50256);
  EXPECT_EQ(gpt2.error, "");
  EXPECT_EQ(gpt2.config.data().tokenizer(), "none");
  EXPECT_FALSE(gpt2.config.data().has_end_of_text()) << "not the one of bytes";
  EXPECT_THAT(gpt2.note, HasSubstr("data.tokenizer is none: tokens holds id 50256, beyond the 257 ids of bytes"));
  EXPECT_EQ(gpt2.tokenizer, nullptr);
  const Outcome set = open("end_of_text: 50256 document_mask: true", stream, 50256);
  EXPECT_EQ(set.error, "");
  EXPECT_EQ(set.config.data().end_of_text(), 50256);
  const Outcome other = open("end_of_text: 10", stream, 100);
  EXPECT_EQ(other.config.data().end_of_text(), 10) << "an id that is set wins over the tokenizer's";
}

TEST(DataTokenizer, WhatDoesNotMatchIsRejected) {
  const TokenStream stream({1, 2, 3}, "tokens");
  EXPECT_THAT(open("tokenizer: 'bytes'", stream, 257).error,
              HasSubstr("tokens holds id 257 at position 7, beyond the 257 ids of data.tokenizer bytes"));
  EXPECT_THAT(open("document_mask: true", stream, 50256).error, HasSubstr("set data.end_of_text"));
  EXPECT_THAT(open("tokenizer: 'none' document_mask: true", stream, 3).error, HasSubstr("set data.end_of_text"));
  EXPECT_THAT(open("end_of_text: 50304", stream, 3).error,
              HasSubstr("data.end_of_text is 50304, but must be below model.vocabulary, 50304"));
  EXPECT_THAT(open("end_of_text: -1", stream, 3).error, HasSubstr("data.end_of_text is -1"));
  EXPECT_EQ(open("tokenizer: 'none'", stream, 3).tokenizer, nullptr);
}

}  // namespace
}  // namespace yard
