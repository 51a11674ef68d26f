#include "launch/config_reader.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/error.h"
#include "core/random.h"
#include "launch/config_fields.h"
#include "tests/support/support.h"

using namespace yard;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

namespace {
std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const InputError& error) {
    return error.what();
  }
  return "nothing was refused";
}
std::string refusal_of(const std::string& text) {
  return refusal([&] { parse_config(text, "a.textproto"); });
}
std::string refused_setting(const std::string& setting) {
  RunConfig config;
  return refusal([&] { apply_setting(config, setting); });
}

TEST(ReadConfig, TakesTextFormat) {
  const RunConfig config = parse_config(
      "# a comment with 'quotes' and modle { }\n"
      "run { steps: 20 precision: bf16, seed: 7; }\n"
      "model <\n"
      "  width: 64  # another\n"
      "  router: { kind: softmax_top_k normalize: false }\n"
      ">\n"
      "data { train: 'some/where' tokenizer: bytes order: sequential }\n"
      "optimizer { peak_rate: 1e-3 final_rate: -0.5 }\n",
      "a.textproto");
  EXPECT_EQ(config.run().steps(), 20);
  EXPECT_EQ(config.run().seed(), 7U);
  EXPECT_EQ(config.run().precision(), RunConfig::Precision::bf16);
  EXPECT_EQ(config.model().width(), 64);
  EXPECT_EQ(config.model().router().kind(), "softmax_top_k");
  EXPECT_TRUE(config.model().router().has_normalize());
  EXPECT_FALSE(config.model().router().normalize());
  EXPECT_EQ(config.data().train(), "some/where");
  EXPECT_EQ(config.data().tokenizer(), "bytes");
  EXPECT_EQ(config.data().order(), RunConfig::Order::sequential);
  EXPECT_DOUBLE_EQ(config.optimizer().peak_rate(), 1e-3);
  EXPECT_DOUBLE_EQ(config.optimizer().final_rate(), -0.5);
  EXPECT_FALSE(config.model().has_layers());
  EXPECT_TRUE(parse_config("", "empty").SerializeAsString().empty());
}

TEST(ReadConfig, SuggestsTheFieldThatWasMeant) {
  EXPECT_EQ(refusal_of("\n\nmodle { width: 3 }"), "a.textproto:3: unknown field 'modle'; did you mean 'model'?");
  EXPECT_EQ(refusal_of("model {\n  widht: 3\n}"), "a.textproto:2: unknown field 'widht' in 'model'; did you mean 'width'?");
  EXPECT_EQ(refusal_of("model { router {\n kinf: x } }"), "a.textproto:2: unknown field 'kinf' in 'model.router'; did you mean 'kind'?");
  EXPECT_EQ(refusal_of("model { vocab: 3 }"), "a.textproto:1: unknown field 'vocab' in 'model'; did you mean 'vocabulary'?");
  EXPECT_EQ(refusal_of("mesh { zzz: 3 }"), "a.textproto:1: unknown field 'zzz' in 'mesh'; there are expert, data, tensor and pipeline");
}

TEST(ReadConfig, SaysWhatAValueMustBe) {
  EXPECT_EQ(refusal_of("run { steps: 20\n precision: bf17 }"),
            "a.textproto:2: run.precision must be one of auto, bf16 or f32, not 'bf17'; did you mean 'bf16'?");
  EXPECT_EQ(refusal_of("model { width: many }"), "a.textproto:1: model.width must be a whole number, not 'many'");
  EXPECT_EQ(refusal_of("model { width: 1.5 }"), "a.textproto:1: model.width must be a whole number, not '1.5'");
  EXPECT_EQ(refusal_of("model { width: \"64\" }"), "a.textproto:1: model.width must be a whole number, not '\"64\"'");
  EXPECT_EQ(refusal_of("model { layers: 2 gated: maybe heads: 2 }"), "a.textproto:1: model.gated must be true or false, not 'maybe'");
  EXPECT_EQ(refusal_of("model {\n gated: maybe\n heads: 2 }"), "a.textproto:2: model.gated must be true or false, not 'maybe'");
  EXPECT_EQ(refusal_of("run { seed: -1 }"), "a.textproto:1: run.seed must be a whole number that is not negative, not '-1'");
  EXPECT_EQ(refusal_of("losses {\n\n balance: high\n}"), "a.textproto:3: losses.balance must be a number, not 'high'");
  EXPECT_EQ(refusal_of("data { train: 12 }"), "a.textproto:1: data.train must be text in quotes, or one plain word, not '12'");
  EXPECT_EQ(refusal_of("data { train: some/where }"), "a.textproto:1: data.train holds more than a plain word: put its value in quotes");
  EXPECT_EQ(refusal_of("model { width: 99999999999999999999 }"),
            "a.textproto:1: model.width must be a whole number, not '99999999999999999999'");
}

TEST(ReadConfig, SaysWhatIsWrongWithItsForm) {
  EXPECT_EQ(refusal_of("run { steps: 2\n steps: 3 }"), "a.textproto:2: run.steps is given twice");
  EXPECT_EQ(refusal_of("run { steps: 2 }\n\nrun { seed: 3 }"), "a.textproto:3: run is given twice");
  EXPECT_EQ(refusal_of("run {\n steps: 2"), "a.textproto: the block 'run' that is opened on line 1 is not closed with '}'");
  EXPECT_EQ(refusal_of("run { steps: 2 }\n}"), "a.textproto:2: '}' closes no block");
  EXPECT_EQ(refusal_of("run: 3"), "a.textproto:1: run is a block: write run { ... }");
  EXPECT_EQ(refusal_of("run { steps: }"), "a.textproto:1: run.steps has no value");
  EXPECT_EQ(refusal_of("run { : 3 }"), "a.textproto:1: the name of a field is expected, not ':'");
  EXPECT_THAT(refusal_of("data {\n train: \"open }"), StartsWith("a.textproto:2: "));
  EXPECT_EQ(refusal_of("run {\n steps 3 }"), "a.textproto:2: run.steps is a single value: write steps: and the value");
  EXPECT_EQ(refusal_of("run { steps: [1, 2] }"), "a.textproto:1: run.steps takes one value, not a list");
  for (const char* text :
       {"\x01", "{", "run", "run {", "run { steps", "run { steps:", "data { train: 'x' 'y' }", "9", "data { train: -x }"}) {
    EXPECT_THAT(refusal_of(text), StartsWith("a.textproto")) << text;
  }
}

/// Words of the file and the command line are shown in one line and in part.
TEST(ReadConfig, SentencesStayShort) {
  const std::string word(2000000, 'x');
  for (const std::string& sentence :
       {refusal_of(word + ": 3"), refusal_of("run { " + word + ": 3 }"), refusal_of("run { precision: " + word + " }"),
        refusal_of("model { width: '" + word + "' }"), refused_setting(word), refused_setting("model." + word + "=3"),
        refused_setting("model.width=" + word), refused_setting("model.width." + word + "=3"), refused_setting("model.\n=3"),
        refused_setting("run.steps=a\nb"), refusal_of("run { steps: 'a\x1b' }")}) {
    EXPECT_LT(sentence.size(), 1000U);
    EXPECT_TRUE(std::none_of(sentence.begin(), sentence.end(), [](unsigned char c) { return c < 0x20; })) << sentence;
  }
}

TEST(ReadConfig, AnswersAnyTextWithAConfigurationOrASentence) {
  const std::string good =
      "run { steps: 20 precision: bf16 seed: 7 }\nmodel < router: { kind: plain normalize: false } >\ndata { train: 'a b' }";
  const std::string pieces = "{}<>:;,[]'\"#-\\ \n\tax0\xff";
  const Random random(key_of(1, 2));
  std::uint64_t draw = 0;
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (int edits = 1 + i % 4; edits > 0; --edits) {
      const std::size_t at = random.bits(draw++) % text.size();
      const char piece = pieces[random.bits(draw++) % pieces.size()];
      switch (random.bits(draw++) % 3) {
        case 0:
          text[at] = piece;
          break;
        case 1:
          text.insert(at, 1, piece);
          break;
        default:
          text.erase(at, 1);
      }
    }
    try {
      parse_config(text, "a");
    } catch (const InputError& error) {
      ++refused;
      EXPECT_THAT(error.what(), StartsWith("a:")) << text;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(ReadConfig, NamesAFileThatCannotBeRead) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(refusal([&] { read_config(folder / "none"); }), "cannot read " + (folder / "none") + ": No such file or directory");
  EXPECT_EQ(refusal([&] { read_config(folder.path()); }), "cannot read " + folder.path() + ": it is a folder, not a regular file");
}

TEST(Set, ReachesEveryDepthAndKind) {
  RunConfig config;
  for (const char* setting :
       {"run.steps=30", "run.precision=f32", "run.seed=18446744073709551615", "model.gated=false", "model.router.jitter=1e-2",
        "optimizer.scale.router=0.5", "data.train=/some/path=with equals", "model.router.kind=another"}) {
    apply_setting(config, setting);
  }
  EXPECT_EQ(config.run().steps(), 30);
  EXPECT_EQ(config.run().precision(), RunConfig::Precision::f32);
  EXPECT_EQ(config.run().seed(), 18446744073709551615ULL);
  EXPECT_FALSE(config.model().gated());
  EXPECT_DOUBLE_EQ(config.model().router().jitter(), 0.01);
  EXPECT_DOUBLE_EQ(config.optimizer().scale().router(), 0.5);
  EXPECT_EQ(config.data().train(), "/some/path=with equals");
  EXPECT_EQ(config.model().router().kind(), "another");
  apply_setting(config, "run.steps=31");
  EXPECT_EQ(config.run().steps(), 31);
  apply_setting(config, "run.steps=");
  EXPECT_FALSE(config.run().has_steps());
  EXPECT_EQ(config.run().steps(), 1000);
}

TEST(Set, ComesAfterTheFile) {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "c.textproto") << "run { steps: 5 seed: 3 }";
  const RunConfig config = load_config(folder / "c.textproto", {"run.steps=6", "run.steps=7"});
  EXPECT_EQ(config.run().steps(), 7);
  EXPECT_EQ(config.run().seed(), 3U);
}

TEST(Set, SuggestsAndLists) {
  EXPECT_THAT(refused_setting("modle.width=3"),
              HasSubstr("unknown field 'modle.width'; did you mean 'model'? (the blocks are run, mesh, model,"));
  EXPECT_THAT(
      refused_setting("model.router.knd=3"),
      HasSubstr(
          "unknown field 'model.router.knd'; did you mean 'model.router.kind'? (the fields of model.router are kind, capacity_factor,"));
  EXPECT_THAT(refused_setting("mesh.zzz=3"),
              HasSubstr("unknown field 'mesh.zzz': the fields of mesh are expert, data, tensor and pipeline"));
  EXPECT_THAT(refused_setting("mesh=3"), HasSubstr("'mesh' is a block: name one of its fields, expert, data, tensor or pipeline"));
  EXPECT_THAT(refused_setting("run.steps.more=3"), HasSubstr("'run.steps' is a single value and has no field 'more'"));
  EXPECT_THAT(refused_setting("run.steps"), HasSubstr("--set takes path.to.field=value"));
  EXPECT_THAT(refused_setting("=3"), HasSubstr("--set takes path.to.field=value"));
  EXPECT_EQ(refused_setting("run.steps=ten"), "--set run.steps=ten: run.steps must be a whole number, not 'ten'");
  EXPECT_THAT(refused_setting("run.steps=1 2"), HasSubstr("run.steps must be a whole number"));
  EXPECT_THAT(refused_setting("run.precision=fp32"),
              HasSubstr("run.precision must be one of auto, bf16 or f32, not 'fp32'; did you mean 'f32'?"));
  EXPECT_THAT(refused_setting("model.gated=maybe"), HasSubstr("model.gated must be true or false"));
  EXPECT_THAT(refused_setting("losses.z=x"), HasSubstr("losses.z must be a number"));
}

TEST(ToText, ReadsBackEqual) {
  RunConfig config = parse_config("run { steps: 3 precision: auto } model { attention_scale: 0.1 router { kind: x } }", "a");
  config.mutable_data()->set_train("odd \" name\n\xff");
  const RunConfig again = parse_config(to_text(config), "b");
  EXPECT_EQ(again.data().train(), config.data().train());
  EXPECT_EQ(to_text(again), to_text(config));
  EXPECT_EQ(again.run().steps(), 3);
  EXPECT_THAT(to_text(config), HasSubstr("precision: auto"));
}

// Every field must be documented: the reference is what users read.
void expect_documented(const google::protobuf::Descriptor& message, const std::string& reference) {
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    const std::string declaration = " " + field.name() + " = " + std::to_string(field.number());
    EXPECT_THAT(reference, HasSubstr(declaration));
    if (field.message_type() != nullptr) expect_documented(*field.message_type(), reference);
  }
}

TEST(Reference, HoldsEveryFieldWithACommentAndItsDefault) {
  const std::string reference = config_reference();
  expect_documented(*RunConfig::descriptor(), reference);
  std::istringstream lines(reference);
  std::string comment;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t start = line.find_first_not_of(' ');
    if (start == std::string::npos) continue;
    if (line.compare(start, 2, "//") == 0) {
      comment += line.substr(start + 2);
      continue;
    }
    const bool scalar = start >= 4 && line.compare(start, 9, "optional ") == 0 && line.find("Router router") == std::string::npos &&
                        line.find("Scale scale") == std::string::npos;
    if (scalar) {
      EXPECT_THAT(comment, testing::AnyOf(HasSubstr("Default"), HasSubstr("No default"))) << line;
    }
    comment.clear();
  }
}

TEST(Nearest, KnowsMisspellingsFromOtherWords) {
  const std::vector<std::string> words{"steps", "seed", "precision"};
  EXPECT_EQ(nearest("step", words), "steps");
  EXPECT_EQ(nearest("sede", words), "seed");
  EXPECT_EQ(nearest("percision", words), "precision");
  EXPECT_EQ(nearest("prec", words), "precision");
  EXPECT_EQ(nearest("width", words), "");
  EXPECT_EQ(nearest("", words), "");
}

TEST(ConfigReader, ReadsFilesOfOtherEditors) {
  const std::string text = "# a comment\r\nrun { steps: 7 }\r\nmodel {\r\n  width: 64\r\n}\r\ndata { train: 'x' }\r\n";
  for (const std::string& mark : {std::string(), std::string("\xef\xbb\xbf")}) {
    const RunConfig config = parse_config(mark + text, "c");
    EXPECT_EQ(config.run().steps(), 7);
    EXPECT_EQ(config.model().width(), 64);
    EXPECT_EQ(config.data().train(), "x");
  }
  EXPECT_THAT(refusal([] { (void)parse_config(std::string("\xff\xfe") + "r", "c"); }),
              HasSubstr("c begins with the byte-order mark of UTF-16"));
}
}  // namespace
