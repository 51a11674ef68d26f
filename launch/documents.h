#pragma once

#include <functional>
#include <sstream>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/io/file.h"
#include "core/tensor/tensor.h"

namespace yard {

using TakeDocument = std::function<void(std::string_view)>;

/// Lines that hold no document, of all files.
struct BadLines {
  bool skip = false;  // else the first one is an error
  Index lines = 0, bad = 0;
  std::string first;  // what was wrong

  template <class... Parts>
  void reject(const Parts&... parts) {
    std::ostringstream sentence;
    (sentence << ... << parts);
    if (!skip) fail_input("", sentence.str());
    if (bad++ == 0) first = sentence.str();
  }
};

/// Hands every document of a text file to `take`. `kind`: file, line, blank-line or jsonl:FIELD, as `tokenize --help` describes them.
/// Throws InputError for another kind, for a text in UTF-16 or UTF-32, and for a bad line that is not to be skipped, with its number.
void take_documents(const MappedFile& file, const std::string& kind, BadLines& bad, const TakeDocument& take);

/// Whether documents of that kind are fields of JSON lines, some of which may be bad.
bool has_fields(std::string_view kind);

}  // namespace yard
