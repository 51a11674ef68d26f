#include "launch/documents.h"

#include "core/io/json.h"
#include "core/shown.h"
#include "launch/text_lines.h"

namespace yard {

namespace {

constexpr std::string_view kFields = "jsonl:";

void take_lines(const MappedFile& file, const TakeDocument& take) {
  for (std::string_view text = without_byte_order_mark(file.text(), file.path()); !text.empty();) {
    const std::string_view line = line_of(text);
    text.remove_prefix(line.size());
    take(without_line_end(line));
  }
}

void take_blocks(const MappedFile& file, const TakeDocument& take) {
  std::string_view text = without_byte_order_mark(file.text(), file.path());
  while (!text.empty()) {
    std::size_t size = 0;
    std::size_t gap = 0;
    while (size < text.size() && gap == 0) {
      const std::string_view line = line_of(text.substr(size));
      if (without_line_end(line).empty()) {
        gap = line.size();
      } else {
        size += line.size();
      }
    }
    const std::string_view block = without_line_end(text.substr(0, size));
    if (block.find("\r\n") == std::string_view::npos) {
      take(block);
    } else {
      take(with_unix_line_ends(block));
    }
    text.remove_prefix(size + gap);
  }
}

void take_fields(const MappedFile& file, const std::string& field, BadLines& bad, const TakeDocument& take) {
  using nlohmann::json;
  Index number = 0;
  take_lines(file, [&](std::string_view line) {
    ++number;
    ++bad.lines;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    std::string wrong;
    const json object = parse_json(line, wrong);
    if (!object.is_object()) {
      if (wrong.empty()) wrong = std::string("it is of the type ") + object.type_name();
      return bad.reject("line ", number, " of ", file.path(), " is no JSON object: ", wrong);
    }
    const auto value = object.find(field);
    if (value == object.end()) return bad.reject("line ", number, " of ", file.path(), " has no string '", shown(field), "'");
    if (!value->is_string())
      return bad.reject("line ", number, " of ", file.path(), " has no string '", shown(field), "': it is of the type ",
                        value->type_name());
    take(value->get_ref<const std::string&>());
  });
}

}  // namespace

bool has_fields(std::string_view kind) { return kind.starts_with(kFields); }

void take_documents(const MappedFile& file, const std::string& kind, BadLines& bad, const TakeDocument& take) {
  if (kind == "file") {
    take(file.text());
  } else if (kind == "line") {
    take_lines(file, take);
  } else if (kind == "blank-line") {
    take_blocks(file, take);
  } else if (has_fields(kind) && kind.size() > kFields.size()) {
    take_fields(file, kind.substr(kFields.size()), bad, take);
  } else {
    fail_input("--document is '", shown(kind), "'; it must be file, line, blank-line or jsonl:FIELD");
  }
}

}  // namespace yard
