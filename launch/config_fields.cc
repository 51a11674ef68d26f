#include "launch/config_fields.h"

#include <fmt/format.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/shown.h"

namespace yard {

namespace pb = google::protobuf;

namespace {
/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other (Damerau 1964, without overlaps).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  std::iota(cost[0].begin(), cost[0].end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::string wanted(const pb::FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32:
    case pb::FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case pb::FieldDescriptor::CPPTYPE_UINT32:
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number that is not negative";
    case pb::FieldDescriptor::CPPTYPE_FLOAT:
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case pb::FieldDescriptor::CPPTYPE_STRING:
      return "text in quotes, or one plain word";
    case pb::FieldDescriptor::CPPTYPE_ENUM:
      return "one of " + listed(value_names(*field.enum_type()), "or");
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "a block in { }";
}
}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t least = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (word.size() >= candidate.size() + least) continue;  // however long a word is
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  if (!best.empty() || word.size() < 3) return best;
  // An abbreviation, such as 'lr' for nothing but 'vocab' for 'vocabulary'.
  const auto longer = [&](const std::string& candidate) { return candidate.starts_with(word) || word.starts_with(candidate); };
  const auto found = std::find_if(candidates.begin(), candidates.end(), longer);
  return found == candidates.end() ? std::string() : *found;
}

std::string suggestion(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? std::string() : fmt::format("; did you mean '{}'?", near);
}

std::vector<std::string> field_names(const pb::Descriptor& message) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  return names;
}

std::vector<std::string> value_names(const pb::EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  return names;
}

std::string listed(const std::vector<std::string>& words, std::string_view last) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? fmt::format(" {} ", last) : std::string(", ");
    text += words[i];
  }
  return text;
}

std::string wrong_value(std::string_view path, const pb::FieldDescriptor& field, std::string_view text) {
  std::string sentence = fmt::format("{} must be {}, not '{}'", path, wanted(field), shown(text));
  if (field.cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM) sentence += suggestion(text, value_names(*field.enum_type()));
  return sentence;
}

FoundField find_field(pb::Message& root, std::string_view path) {
  pb::Message* holder = &root;
  std::string before;
  for (std::string_view rest = path;;) {
    const std::size_t dot = rest.find('.');
    const std::string name(rest.substr(0, dot));
    const pb::Descriptor& type = *holder->GetDescriptor();
    const pb::FieldDescriptor* field = type.FindFieldByName(name);
    const std::vector<std::string> names = field_names(type);
    if (field == nullptr) {
      const std::string near = nearest(name, names);
      fail_input("unknown field '", shown(path), "'", near.empty() ? "" : fmt::format("; did you mean '{}{}'?", before, near),
                 near.empty() ? ": " : " (",
                 before.empty() ? "the blocks are " : "the fields of " + before.substr(0, before.size() - 1) + " are ", listed(names),
                 near.empty() ? "" : ")");
    }
    const bool block = field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE;
    if (dot == std::string_view::npos) {
      check_input(!block, "'", path, "' is a block: name one of its fields, ",
                  block ? listed(field_names(*field->message_type()), "or") : "");
      return {holder, field};
    }
    check_input(block, "'", before, name, "' is a single value and has no field '", shown(rest.substr(dot + 1)), "'");
    holder = holder->GetReflection()->MutableMessage(holder, field);
    before += name + ".";
    rest.remove_prefix(dot + 1);
  }
}

void set_field(const FoundField& found, std::string_view path, const std::string& text) {
  const pb::Reflection& reflection = *found.holder->GetReflection();
  if (text.empty()) {
    reflection.ClearField(found.holder, found.field);
  } else if (found.field->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING) {
    reflection.SetString(found.holder, found.field, text);
  } else {
    struct Silent final : pb::io::ErrorCollector {
      void AddError(int, pb::io::ColumnNumber, const std::string&) override {}
    } silent;
    pb::TextFormat::Parser parser;
    parser.RecordErrorsTo(&silent);
    check_input(parser.ParseFieldValueFromString(text, found.field, found.holder), "", wrong_value(path, *found.field, text));
  }
}

void fill_plain_defaults(pb::Message& message) {
  const pb::Descriptor& type = *message.GetDescriptor();
  const pb::Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
      fill_plain_defaults(*reflection.MutableMessage(&message, &field));
    } else if (field.has_default_value() && !reflection.HasField(message, &field)) {
      switch (field.cpp_type()) {
        case pb::FieldDescriptor::CPPTYPE_INT64:
          reflection.SetInt64(&message, &field, field.default_value_int64());
          break;
        case pb::FieldDescriptor::CPPTYPE_UINT64:
          reflection.SetUInt64(&message, &field, field.default_value_uint64());
          break;
        case pb::FieldDescriptor::CPPTYPE_DOUBLE:
          reflection.SetDouble(&message, &field, field.default_value_double());
          break;
        case pb::FieldDescriptor::CPPTYPE_BOOL:
          reflection.SetBool(&message, &field, field.default_value_bool());
          break;
        case pb::FieldDescriptor::CPPTYPE_STRING:
          reflection.SetString(&message, &field, field.default_value_string());
          break;
        case pb::FieldDescriptor::CPPTYPE_ENUM:
          reflection.SetEnum(&message, &field, field.default_value_enum());
          break;
        default:
          fail("config.proto uses a type for ", field.full_name(), " that configurations do not have");
      }
    }
  }
}

}  // namespace yard
