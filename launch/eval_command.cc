#include <fmt/format.h>
#include <boost/program_options.hpp>
#include <filesystem>
#include <iostream>
#include <limits>
#include <numeric>
#include <optional>
#include <span>

#include "comm/agree.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/data_scan.h"
#include "launch/evaluation.h"
#include "launch/loaded_model.h"
#include "launch/unused_settings.h"

namespace yard {
namespace {

namespace po = boost::program_options;

YARD_COLLECTIVE kLogits{"logits"};

struct Options {
  std::string checkpoint, data, text, ids, logits;
  std::vector<std::string> settings;
  Index windows = 0, length = 0, batch = 4;
  bool json = false;
};

/// The tokens of a text as a token file in a temporary folder of rank 0's making would need a shared disk; every rank encodes it instead.
std::shared_ptr<const TokenStream> stream_of(const Options& options, const LoadedModel& loaded) {
  if (!options.data.empty()) {
    const TokenFormat format = token_format(RunConfig::Format::Value_Name(loaded.config.data().format()));
    return std::make_shared<TokenStream>(options.data, format, loaded.config.model().vocabulary());
  }
  const MappedFile text(options.text);
  check_input(!text.bytes().empty(), "", options.text, " is empty: there is nothing to predict");
  std::vector<std::int32_t> ids;
  loaded.tokenizer->encode(text.text(), ids);
  return std::make_shared<TokenStream>(std::move(ids), options.text);
}

void evaluate_text(RankRuntime& runtime, LoadedModel& loaded, const Options& options) {
  std::shared_ptr<const TokenStream> stream;
  agree(runtime.control, [&] { stream = stream_of(options, loaded); });
  const TokenScan scan = scan_with_status(runtime, *stream);
  std::unique_ptr<Validation> data;
  agree(runtime.control, [&] {
    check_vocabulary(*stream, scan, loaded.config.model().vocabulary());
    const bool lacks_ids = loaded.tokenizer != nullptr && scan.largest >= loaded.tokenizer->vocabulary();
    check_input(!lacks_ids || !is_set(options.settings, "data.tokenizer"), "", stream->name(), " holds id ", scan.largest, " at position ",
                scan.largest_at, ", beyond the ids of data.tokenizer: name the SentencePiece model that made the tokens, or none");
    check_input(!loaded.config.data().document_mask() || loaded.end_of_text >= 0 || !stream->document_ends().empty(),
                "data.document_mask must know where documents end: set data.end_of_text to the id that ends a document in ",
                stream->name());
    const Index length = options.length > 0 ? options.length : loaded.config.data().length();
    check_input(length <= loaded.config.model().positions(), "--length ", length, " is beyond model.positions, ",
                loaded.config.model().positions());
    const Index windows = options.windows > 0 ? options.windows : std::numeric_limits<Index>::max();  // all
    data = std::make_unique<Validation>(stream, length, windows, options.batch, loaded.start, loaded.end_of_text,
                                        loaded.config.data().document_mask(), loaded.mesh->batch_shard(), loaded.mesh->batch_shards());
  });
  const auto start = Clock::now();
  const Evaluation result = evaluate(runtime.stream(), runtime.profiler, *loaded.mesh, loaded.model, *data, loaded.tokenizer.get());
  if (runtime.rank != 0) return;
  const double seconds = seconds_between(start, Clock::now());
  const std::optional<double> bits = result.bits_per_byte();
  if (options.json) {
    nlohmann::ordered_json object = {{"loss", result.loss()}, {"perplexity", result.perplexity()}};
    if (bits) object["bits_per_byte"] = *bits;
    object["tokens"] = result.targets;
    if (bits) object["bytes"] = result.bytes;
    object["windows"] = data->windows();
    object["seconds"] = seconds;
    std::cout << json_text(object) << std::endl;
  } else {
    std::cout << fmt::format("loss           {:.4f} nats a token\nperplexity     {:.2f}\n{}tokens         {} in {} windows{}\n",
                             result.loss(), result.perplexity(), bits ? fmt::format("bits per byte  {:.4f}\n", *bits) : "", result.targets,
                             data->windows(), bits ? fmt::format(", {} bytes", result.bytes) : "")
              << std::flush;
    if (!bits && loaded.tokenizer != nullptr && result.unknown > 0)
      std::cerr << "no bits per byte: " << result.unknown << " of the tokens are beyond the " << loaded.tokenizer->vocabulary()
                << " ids of the tokenizer\n";
  }
}

/// Logits of given token ids, the way people compare implementations. Ranks take sequences in turn; rank 0 gathers and writes.
void write_logits(RankRuntime& runtime, LoadedModel& loaded, const Options& options) {
  Tensor ids;
  agree(runtime.control, [&] {
    const SafetensorsReader reader(options.ids);
    const SafetensorsEntry& entry = reader.entry("input_ids");
    check_input(entry.shape.size() == 2, "input_ids of ", options.ids, " must be (sequences, length), got ", entry.shape_text());
    check_input(entry.shape[1] >= 1 && entry.shape[1] <= loaded.config.model().positions(), "input_ids of ", options.ids,
                " has sequences of ", entry.shape[1], " tokens; the model takes 1 to ", loaded.config.model().positions());
    ids = reader.read(runtime.host, "input_ids", DType::i32);
    for (const std::int32_t id : ids.values<std::int32_t>()) {
      check_input(id >= 0 && id < loaded.config.model().vocabulary(), "input_ids of ", options.ids, " holds ", id,
                  ", beyond the vocabulary of ", loaded.config.model().vocabulary());
    }
  });
  const Index sequences = ids.shape()[0];
  const Index length = ids.shape()[1];
  const Index vocabulary = loaded.config.model().vocabulary();
  const int ranks = loaded.mesh->size();
  std::unique_ptr<SafetensorsWriter> writer;
  agree(runtime.control, [&] {
    if (runtime.rank != 0) return;
    SafetensorsEntry entry;
    entry.name = "logits";
    entry.dtype = safetensors_dtype(DType::f32);
    entry.shape = {sequences, length, vocabulary};
    writer = std::make_unique<SafetensorsWriter>(options.logits, std::vector{entry});
  });
  for (Index first = 0; first < sequences; first += ranks) {
    const Index mine = first + runtime.rank;
    Tokens tokens;
    tokens.sequences = 1;
    tokens.length = length;
    tokens.first_sequence = mine;
    tokens.sequences_everywhere = ranks;
    const std::vector<std::int32_t> padding(static_cast<std::size_t>(length), -1);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    const std::span<const std::int32_t> own = mine < sequences ? ids.row_range(mine, 1).values<std::int32_t>() : std::span(padding);
    tokens.ids = Tensor::of<std::int32_t>(runtime.stream(), {length}, own);
    tokens.positions = Tensor::of<std::int32_t>(runtime.stream(), {length}, positions);
    Context context{runtime.stream(), runtime.profiler, tokens, Pass::evaluate};
    Tensor logits = loaded.model.transformer->logits(context).reshaped({1, length * vocabulary});
    if (runtime.gpu) logits = logits.to(runtime.stream(), Device{});
    const Tensor all = ranks == 1 ? logits : Tensor(runtime.host, {ranks, length * vocabulary});
    if (ranks > 1) runtime.control.all_gather(runtime.host, {kLogits}, logits, all).wait(runtime.host);
    agree(runtime.control, [&] {
      const Index count = std::min<Index>(ranks, sequences - first);
      if (writer) writer->write(all.row_range(0, count).reshaped({count, length, vocabulary}));
    });
  }
  agree(runtime.control, [&] {
    if (writer) writer->finish();
  });
  if (runtime.rank == 0)
    std::cout << fmt::format("wrote logits ({}, {}, {}) f32 to {}\n", sequences, length, vocabulary, options.logits) << std::flush;
}

}  // namespace

int eval_command(int argc, const char* const* argv) {
  Options options;
  po::options_description described("Options");
  described.add_options()  //
      ("checkpoint", po::value(&options.checkpoint),
       "run directory, a folder such as RUN/checkpoints/step-00000100, or a Hugging Face directory")                                //
      ("data", po::value(&options.data), "token files to predict, as data.train names them")                                        //
      ("text", po::value(&options.text), "text file to predict, byte for byte, with the checkpoint's tokenizer or data.tokenizer")  //
      ("windows", po::value(&options.windows)->default_value(0), "only the first windows; 0: all")                                  //
      ("length", po::value(&options.length)->default_value(0), "tokens of a window; 0: as in training")                             //
      ("batch", po::value(&options.batch)->default_value(options.batch), "sequences of a rank at once")                             //
      ("ids", po::value(&options.ids), "safetensors file with input_ids (sequences, length) i64, instead of a text")                //
      ("logits", po::value(&options.logits), "safetensors file to write: logits (sequences, length, vocabulary) f32")               //
      ("set", po::value(&options.settings)->composing(), "path.to.field=value for the checkpoint's configuration")                  //
      ("json", po::bool_switch(&options.json), "one JSON object instead of lines; a number that is not finite is null");
  if (!parse_command(argc, argv,
                     "--checkpoint FOLDER (--data PREFIX | --text FILE | --ids FILE --logits FILE)\n\nLoss, perplexity and bits per byte "
                     "of a checkpoint, or its logits; under mpirun the experts are spread over all ranks.",
                     described))
    return 0;
  check_input(!options.checkpoint.empty(), "eval needs --checkpoint FOLDER");
  const int given = (options.data.empty() ? 0 : 1) + (options.text.empty() ? 0 : 1) + (options.ids.empty() ? 0 : 1);
  check_input(given == 1, "eval needs one of --data PREFIX, --text FILE, or --ids FILE with --logits FILE");
  check_input(options.ids.empty() == options.logits.empty(), "--ids and --logits go together");
  check_input(options.batch >= 1, "--batch must be at least 1, got ", options.batch);
  std::vector<UnusedField> unused = fields_of_training();
  if (options.data.empty()) unused.push_back({"data.format"});
  if (!options.ids.empty())
    unused.insert(unused.end(), {{"data.tokenizer"}, {"data.length"}, {"data.document_mask"}, {"data.end_of_text"}});
  if (options.length > 0) unused.push_back({"data.length", "--length"});
  check_used("eval", options.settings, unused);
  const TextUse text = !options.text.empty() ? TextUse::required : !options.data.empty() ? TextUse::optional : TextUse::none;
  return run_on_ranks([&](RankRuntime& runtime) {
    LoadedModel loaded = load_checkpoint(runtime, options.checkpoint, options.settings, text);
    if (!options.ids.empty()) {
      write_logits(runtime, loaded, options);
    } else {
      evaluate_text(runtime, loaded, options);
    }
  });
}

}  // namespace yard
