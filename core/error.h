#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace yard {

/// The opening words of an error, and where in the source they were written.
/// __builtin_FILE rather than std::source_location: clang 14's tools cannot read the latter from libstdc++ 12.
struct Message {
  const char* text;
  const char* file;
  int line;
  Message(const char* words, const char* in = __builtin_FILE(), int at = __builtin_LINE())  // NOLINT(google-explicit-constructor)
      : text(words), file(in), line(at) {}
};

/// A failure that a person can act on: its text is one sentence with the numbers in it. The program exits with 1.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence) : std::runtime_error(sentence) {}
  Error(const std::string& sentence, const Message& from) : std::runtime_error(sentence), file_(from.file), line_(from.line) {}
  /// Where it was thrown, "core/ops/norm.cc:12"; `main` prints it when SWITCHYARD_DEBUG is set.
  std::string where() const { return std::string(file_) + ":" + std::to_string(line_); }

 private:
  const char* file_ = "?";
  int line_ = 0;
};

/// What was given is wrong (options, configuration, data), rather than what happened: the program exits with 2.
class InputError : public Error {
 public:
  using Error::Error;
};

namespace detail {
template <class... Parts>
std::string sentence(const Message& message, const Parts&... parts) {
  std::ostringstream out;
  out << message.text;
  ((out << parts), ...);
  return out.str();
}
}  // namespace detail

/// Throws Error with the message and the parts written after it.
template <class... Parts>
[[noreturn]] void fail(Message message, const Parts&... parts) {
  throw Error(detail::sentence(message, parts...), message);
}

/// Throws InputError with the message and the parts written after it.
template <class... Parts>
[[noreturn]] void fail_input(Message message, const Parts&... parts) {
  throw InputError(detail::sentence(message, parts...), message);
}

/// Throws Error unless `ok`:  check(x == y, "rows differ: ", x, " and ", y).
template <class... Parts>
void check(bool ok, Message message, const Parts&... parts) {
  if (!ok) fail(message, parts...);
}

/// Throws InputError unless `ok`.
template <class... Parts>
void check_input(bool ok, Message message, const Parts&... parts) {
  if (!ok) fail_input(message, parts...);
}

}  // namespace yard
