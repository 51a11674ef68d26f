#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>
#include <vector>

namespace yard {

/// The candidate that `word` was probably meant to be, by edit distance; empty when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
/// "; did you mean 'model'?", or nothing when no candidate is near.
std::string suggestion(std::string_view word, const std::vector<std::string>& candidates);

/// The names of a message's fields, and of an enum's values, in the order of config.proto.
std::vector<std::string> field_names(const google::protobuf::Descriptor&);
std::vector<std::string> value_names(const google::protobuf::EnumDescriptor&);
/// "a, b and c"; "a, b or c".
std::string listed(const std::vector<std::string>& words, std::string_view last = "and");

/// "run.precision must be one of auto, bf16 or f32, not 'bf17'; did you mean 'bf16'?"
std::string wrong_value(std::string_view path, const google::protobuf::FieldDescriptor&, std::string_view text);

/// A scalar field of a configuration, found by its path, "model.router.kind", and the message that holds it.
struct FoundField {
  google::protobuf::Message* holder;
  const google::protobuf::FieldDescriptor* field;
};
/// Makes the messages on the way. Throws InputError with a suggestion and the names that exist where a step of the path does not, and when
/// the path ends at a block.
FoundField find_field(google::protobuf::Message& root, std::string_view path);

/// Gives a scalar field the value that `text` spells; an empty text clears it, so that it has its default again.
/// Throws InputError with wrong_value's sentence.
void set_field(const FoundField&, std::string_view path, const std::string& text);

/// Gives every scalar field that config.proto has a default for, and that is not set, its default, in all messages below.
void fill_plain_defaults(google::protobuf::Message&);

}  // namespace yard
