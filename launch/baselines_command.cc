#include "launch/baselines_command.h"

#include <fmt/format.h>

#include <iostream>
#include <string>

#include "core/data/ngram.h"
#include "core/data/token_scan.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/io/json.h"
#include "launch/command_line.h"

namespace yard {

namespace {

namespace po = boost::program_options;

constexpr std::string_view kUsage =
    "--train FILES --validation FILES --tokenizer NAME\n\n"
    "Prints what simple statistics of the training tokens make of the validation tokens, in bits per byte of text, as eval counts them: "
    "an\n"
    "add-half unigram, and an interpolated Kneser-Ney bigram with the discount n1 / (n1 + 2 n2) for pairs and for continuations.";

}  // namespace

int baselines_command(int argc, const char* const* argv) {
  po::options_description options("Options");
  options.add_options()("train", po::value<std::string>()->required()->value_name("FILES"),
                        "token files to count, as data.train names them")(
      "validation", po::value<std::string>()->required()->value_name("FILES"), "token files to predict")(
      "tokenizer", po::value<std::string>()->required()->value_name("NAME"), "'bytes', or the file of a SentencePiece model")(
      "format", po::value<std::string>()->default_value("auto")->value_name("NAME"), "auto, megatron, llmc or nanogpt")(
      "tokens", po::value<Index>()->default_value(0)->value_name("N"), "predict only the first N tokens; 0 is all of them")(
      "end-of-text", po::value<Index>()->default_value(-1)->value_name("ID"),
      "the id that ends a document, as data.end_of_text; -1 is the tokenizer's")("json", po::bool_switch(), "print one JSON object");
  const auto given = parse_command(argc, argv, std::string(kUsage), options);
  if (!given) return 0;
  const auto tokens = (*given)["tokens"].as<Index>();
  check_input(tokens >= 0, "--tokens is ", tokens, "; it must be 0 (all) or more");
  const TokenFormat format = token_format((*given)["format"].as<std::string>());
  const auto tokenizer = open_tokenizer((*given)["tokenizer"].as<std::string>());
  const auto checked = [&](const std::string& files) {
    TokenStream stream(files, format, tokenizer->vocabulary());
    TokenScan scan;
    scan_tokens(stream, 0, stream.length(), scan, [] { return false; });
    check_vocabulary(stream, scan, tokenizer->vocabulary());
    return stream;
  };
  const TokenStream train = checked((*given)["train"].as<std::string>());
  const TokenStream validation = checked((*given)["validation"].as<std::string>());
  const auto given_end = (*given)["end-of-text"].as<Index>();
  check_input(given_end >= -1 && given_end < tokenizer->vocabulary(), "--end-of-text is ", given_end, ", but must be from 0 to ",
              tokenizer->vocabulary() - 1, ", or -1 for the tokenizer's");
  const auto end_of_text = given_end >= 0 ? static_cast<std::int32_t>(given_end) : tokenizer->end_of_text();
  const Unigram unigram(train, tokenizer->vocabulary());
  const KneserNeyBigram bigram(train, tokenizer->vocabulary(), end_of_text);
  const TextCost one = cost_of(validation, tokens, *tokenizer, end_of_text,
                               [&](std::int32_t /*previous*/, std::int32_t token) { return unigram.probability(token); });
  const TextCost two = cost_of(validation, tokens, *tokenizer, end_of_text,
                               [&](std::int32_t previous, std::int32_t token) { return bigram.probability(previous, token); });
  check_input(one.bytes > 0, "the validation tokens of ", validation.name(), " decode to no text");
  if ((*given)["json"].as<bool>()) {
    const nlohmann::ordered_json result = {
        {"unigram", one.bits_per_byte()}, {"bigram", two.bits_per_byte()}, {"tokens", one.tokens}, {"bytes", one.bytes}};
    std::cout << json_text(result) << "\n";
  } else {
    std::cout << fmt::format("unigram  {:.4f} bits per byte\nbigram   {:.4f} bits per byte   ({} tokens, {} bytes)\n", one.bits_per_byte(),
                             two.bits_per_byte(), one.tokens, one.bytes);
  }
  return 0;
}

}  // namespace yard
