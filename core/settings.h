#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "core/error.h"
#include "core/tensor/tensor.h"

namespace yard {

/// One block of the configuration, such as model.router, read by field name. Core must not include the configuration's messages, so launch
/// implements this interface over them. An unknown field, or a field of another type, is a programming error: throws Error.
class Settings {
 public:
  using Value = std::variant<bool, Index, double, std::string>;
  virtual ~Settings() = default;

  /// The field's value, or its default in config.proto if it is not set; for an enumeration, the name of the value.
  template <class T>
  T get(std::string_view field) const {
    const Value value = read(field);
    const T* typed = std::get_if<T>(&value);
    check(typed != nullptr, "", path(field), " is read as another type than it has");
    return *typed;
  }
  /// A floating-point field's value, as f32.
  float number(std::string_view field) const { return static_cast<float>(get<double>(field)); }
  /// Whether the field is set.
  virtual bool has(std::string_view field) const = 0;
  /// Sets the field if it is not set: for a default that depends on other fields.
  template <class T>
  void fill(std::string_view field, T value) {
    if (!has(field)) write(field, Value(std::move(value)));
  }
  /// The full name of a field: "model.router.scale".
  virtual std::string path(std::string_view field) const = 0;

 protected:
  virtual Value read(std::string_view field) const = 0;
  virtual void write(std::string_view field, const Value&) = 0;
};

/// The divisors of a number as text, "1, 2, 3 or 6"; the eight smallest if there are more.
std::string divisors_text(Index of);

}  // namespace yard
