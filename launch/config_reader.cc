#include "launch/config_reader.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/shown.h"
#include "launch/config_fields.h"
#include "launch/text_lines.h"

namespace yard {

namespace pb = google::protobuf;

namespace {
using TextTokens = pb::io::Tokenizer;

/// Throws what the tokenizer or the parser reports, with the line. Line numbers of protobuf count from 0.
struct FirstError final : pb::io::ErrorCollector {
  void AddError(int at, pb::io::ColumnNumber column, const std::string& words) override {
    if (!message.empty()) return;
    line = at;
    col = column;
    message = words;
  }
  int line = 0, col = 0;
  std::string message;
};

/// Goes over the text before protobuf's parser does, to say more than it would: unknown fields with a suggestion, blocks left open, and
/// which field a wrong value belongs to. Rewrites the text token by token, lines kept, plain words of string fields put in quotes.
class Walker {
 public:
  Walker(const std::string& text, const std::string& name)
      : name_(name), input_(text.data(), static_cast<int>(text.size())), tokens_(&input_, &error_) {
    tokens_.set_comment_style(TextTokens::SH_COMMENT_STYLE);
    tokens_.set_allow_f_after_float(true);
    tokens_.set_require_space_after_number(false);
    next();
  }

  void walk(const pb::Descriptor& root) {
    open_.push_back({&root, "", 0});
    while (tokens_.current().type != TextTokens::TYPE_END) {
      if (is("}") || is(">")) {
        check_input(open_.size() > 1, "", place(), "'", tokens_.current().text, "' closes no block");
        open_.pop_back();
        take();
      } else if (is(",") || is(";")) {
        take();
      } else {
        field();
      }
    }
    check_input(open_.size() == 1, "", name_, ": the block '", open_.back().name, "' that is opened on line ", open_.back().line,
                " is not closed with '}'");
  }

  const std::string& rewritten() const { return out_; }

  /// What protobuf's parser found wrong in the rewritten text, in our words where it is about a value.
  [[noreturn]] void explain(const FirstError& error) const {
    // The parser stands behind the name of the field at fault; where it has gone past the value (as with true and false), before the next.
    const Value* last = nullptr;
    for (const Value& value : values_) {
      if (value.line < error.line || (value.line == error.line && value.column < error.col)) last = &value;
    }
    if (last == nullptr) fail_input("", name_, ":", error.line + 1, ": ", shown(error.message, 300));
    const std::string where = name_ + ":" + std::to_string(last->line + 1) + ": ";
    if (error.message.find("multiple times") != std::string::npos) fail_input("", where, last->path, " is given twice");
    if (last->text.empty()) fail_input("", where, shown(error.message, 300));
    fail_input("", where, wrong_value(last->path, *last->field, last->text));
  }

 private:
  struct Block {
    const pb::Descriptor* type;
    std::string name;
    int line;
  };
  struct Value {
    int line, column;  // of the field's name in the rewritten text, from 0
    std::string path, text;
    const pb::FieldDescriptor* field;
  };

  std::string place() { return name_ + ":" + std::to_string(tokens_.current().line + 1) + ": "; }
  bool is(const char* text) { return tokens_.current().text == text; }
  void next() {
    tokens_.Next();
    if (!error_.message.empty()) fail_input("", name_, ":", error_.line + 1, ": ", shown(error_.message, 300));
  }
  /// Copies the current token, or what stands in for it, and goes to the next.
  void take(const std::string& instead = "") {
    const auto& token = tokens_.current();
    for (; line_ < token.line; ++line_) {
      out_ += '\n';
      column_ = 0;
    }
    const std::string& text = instead.empty() ? token.text : instead;
    out_ += text + ' ';
    column_ += static_cast<int>(text.size()) + 1;
    next();
  }

  void field() {
    const Block& block = open_.back();
    const std::string word = tokens_.current().text;
    check_input(tokens_.current().type == TextTokens::TYPE_IDENTIFIER, "", place(), "the name of a field is expected, not '", shown(word),
                "'");
    const pb::FieldDescriptor* found = block.type->FindFieldByName(word);
    if (found == nullptr) {
      const std::vector<std::string> names = field_names(*block.type);
      const std::string near = suggestion(word, names);
      const std::string inside = block.name.empty() ? "" : " in '" + block.name + "'";
      if (!near.empty()) fail_input("", place(), "unknown field '", shown(word), "'", inside, near);
      fail_input("", place(), "unknown field '", shown(word), "'", inside, "; there are ", listed(names));
    }
    const std::string path = block.name.empty() ? word : block.name + "." + word;
    const int line = tokens_.current().line;
    values_.push_back({line, line == line_ ? column_ : 0, path, "", found});
    take();
    const bool colon = is(":");
    if (colon) take();
    if (found->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      check_input(is("{") || is("<"), "", place(), path, " is a block: write ", word, " { ... }");
      open_.push_back({found->message_type(), path, line + 1});
      take();
    } else {
      check_input(colon, "", place(), path, " is a single value: write ", word, ": and the value");
      check_input(!is("["), "", place(), path, " takes one value, not a list");
      value(path, found);
    }
  }

  void value(const std::string& path, const pb::FieldDescriptor* found) {
    const bool text = found->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING;
    std::string spelt = tokens_.current().text;
    check_input(tokens_.current().type != TextTokens::TYPE_END && !is("}"), "", place(), path, " has no value");
    if (text && tokens_.current().type == TextTokens::TYPE_IDENTIFIER) {
      const int line = tokens_.current().line;
      const int end = tokens_.current().end_column;
      take('"' + spelt + '"');
      const bool goes_on =
          tokens_.current().line == line && tokens_.current().column == end && !is("}") && !is(">") && !is(",") && !is(";");
      check_input(!goes_on || tokens_.current().type == TextTokens::TYPE_END, "", place(), path,
                  " holds more than a plain word: put its value in quotes");
    } else {
      if (is("-")) {
        take();
        spelt += tokens_.current().text;
      }
      take();
    }
    values_.back().text = spelt;
  }

  std::string name_;
  FirstError error_;
  pb::io::ArrayInputStream input_;
  TextTokens tokens_;
  std::vector<Block> open_;
  std::vector<Value> values_;
  std::string out_;
  int line_ = 0, column_ = 0;
};
}  // namespace

RunConfig parse_config(const std::string& text, const std::string& name) {
  const std::string unmarked(without_byte_order_mark(text, name));
  Walker walker(unmarked, name);
  walker.walk(*RunConfig::descriptor());
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  RunConfig config;
  if (!parser.ParseFromString(walker.rewritten(), &config)) walker.explain(error);
  return config;
}

RunConfig read_config(const std::string& path) { return parse_config(read_text_file(path), path); }

void apply_setting(RunConfig& config, const std::string& setting) {
  const std::size_t equals = setting.find('=');
  check_input(equals != std::string::npos && equals > 0, "--set takes path.to.field=value, such as model.width=512, not '", shown(setting),
              "'");
  const std::string path = setting.substr(0, equals);
  try {
    set_field(find_field(config, path), path, setting.substr(equals + 1));
  } catch (const InputError& error) {
    fail_input("--set ", shown(setting), ": ", error.what());
  }
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& settings) {
  RunConfig config = read_config(path);
  for (const std::string& setting : settings) apply_setting(config, setting);
  return config;
}

std::string to_text(const RunConfig& config) {
  std::string text;
  check(pb::TextFormat::PrintToString(config, &text), "protobuf could not write the configuration as text");
  return text;
}

}  // namespace yard
