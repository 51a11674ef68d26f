#include "launch/proto_settings.h"

namespace yard {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

const Field& ProtoSettings::find(std::string_view field) const {
  const Field* found = block_.GetDescriptor()->FindFieldByName(std::string(field));
  check(found != nullptr, "config.proto has no field ", path(field));
  return *found;
}

bool ProtoSettings::has(std::string_view field) const { return block_.GetReflection()->HasField(block_, &find(field)); }

Settings::Value ProtoSettings::read(std::string_view field) const {
  const Field& found = find(field);
  const pb::Reflection& reflection = *block_.GetReflection();
  switch (found.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return reflection.GetBool(block_, &found);
    case Field::CPPTYPE_INT64:
      return Index{reflection.GetInt64(block_, &found)};
    case Field::CPPTYPE_DOUBLE:
      return reflection.GetDouble(block_, &found);
    case Field::CPPTYPE_STRING:
      return reflection.GetString(block_, &found);
    case Field::CPPTYPE_ENUM:
      return reflection.GetEnum(block_, &found)->name();
    default:
      fail("", path(field), " is of a type that settings do not have");
  }
}

void ProtoSettings::write(std::string_view field, const Value& value) {
  const Field& found = find(field);
  const pb::Reflection& reflection = *block_.GetReflection();
  const auto is = [&](Field::CppType type) {
    check(found.cpp_type() == type, "", path(field), " is filled with a value of another type than it has");
  };
  if (const auto* flag = std::get_if<bool>(&value)) {
    is(Field::CPPTYPE_BOOL);
    reflection.SetBool(&block_, &found, *flag);
  } else if (const auto* whole = std::get_if<Index>(&value)) {
    is(Field::CPPTYPE_INT64);
    reflection.SetInt64(&block_, &found, *whole);
  } else if (const auto* real = std::get_if<double>(&value)) {
    is(Field::CPPTYPE_DOUBLE);
    reflection.SetDouble(&block_, &found, *real);
  } else if (found.cpp_type() == Field::CPPTYPE_ENUM) {
    const auto* named = found.enum_type()->FindValueByName(std::get<std::string>(value));
    check(named != nullptr, "", path(field), " has no value '", std::get<std::string>(value), "'");
    reflection.SetEnum(&block_, &found, named);
  } else {
    is(Field::CPPTYPE_STRING);
    reflection.SetString(&block_, &found, std::get<std::string>(value));
  }
}

}  // namespace yard
