#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "core/settings.h"

namespace yard {

/// A block of the configuration as Settings. Core reads its own fields through it and does not include the messages (law 1). Throws Error
/// for unknown fields and other types.
class ProtoSettings final : public Settings {
 public:
  /// `fill` changes `block`, which must outlive this object; `name` is its path, such as "model.router".
  ProtoSettings(google::protobuf::Message& block, std::string name) : block_(block), name_(std::move(name)) {}
  bool has(std::string_view field) const override;
  std::string path(std::string_view field) const override { return name_ + "." + std::string(field); }

 protected:
  Value read(std::string_view field) const override;
  void write(std::string_view field, const Value&) override;

 private:
  const google::protobuf::FieldDescriptor& find(std::string_view field) const;
  google::protobuf::Message& block_;
  std::string name_;
};

}  // namespace yard
