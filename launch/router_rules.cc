#include "launch/router_rules.h"

#include <google/protobuf/text_format.h>

#include <algorithm>

#include "core/shown.h"
#include "launch/config_fields.h"
#include "launch/proto_settings.h"

namespace yard {
namespace {

namespace pb = google::protobuf;

/// Throws InputError for a field that is set to a value other than its default but that the kind does not use.
void check_fields(const RunConfig::Router& router, const RouterKind& kind) {
  const pb::Descriptor& type = *router.GetDescriptor();
  for (const std::string_view field : kind.fields)
    check(type.FindFieldByName(std::string(field)) != nullptr, "config.proto has no model.router.", field, ", which the router '",
          kind.name, "' uses");
  RunConfig::Router plain;
  fill_plain_defaults(plain);
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor& field = *type.field(i);
    const bool used = field.name() == "kind" || std::find(kind.fields.begin(), kind.fields.end(), field.name()) != kind.fields.end();
    if (used || !router.GetReflection()->HasField(router, &field)) continue;
    std::string given;
    std::string otherwise;
    pb::TextFormat::PrintFieldValueToString(router, &field, -1, &given);
    if (plain.GetReflection()->HasField(plain, &field)) pb::TextFormat::PrintFieldValueToString(plain, &field, -1, &otherwise);
    check_input(given == otherwise, "model.router.", field.name(), " is ", given, ", but the router '", kind.name,
                "' does not use it: leave it out");
  }
}

}  // namespace

LossSettings loss_settings(const RunConfig& config) {
  LossSettings losses;
  losses.balance = static_cast<float>(config.losses().balance());
  losses.z = static_cast<float>(config.losses().z());
  losses.scope = config.losses().scope() == RunConfig::Scope::sequence ? LossSettings::Scope::sequence : LossSettings::Scope::batch;
  losses.convention = config.losses().convention() == RunConfig::Convention::huggingface ? LossSettings::Convention::huggingface
                                                                                         : LossSettings::Convention::megatron;
  return losses;
}

const RouterKind& router_kind(const RunConfig& config, const RouterTable& routers) {
  const std::string& name = config.model().router().kind();
  const RouterKind* kind = find_router(routers, name);
  if (kind != nullptr) return *kind;
  std::vector<std::string> names;
  for (const RouterKind& each : routers) names.emplace_back(each.name);
  fail_input("model.router.kind is '", shown(name), "', but the routers of this build are ", listed(names), suggestion(name, names));
}

void resolve_router(RunConfig& config, int ranks, const RouterTable& routers) {
  const RouterKind& kind = router_kind(config, routers);
  if (config.model().experts() == 1) return;
  RunConfig::Router& router = *config.mutable_model()->mutable_router();
  check_fields(router, kind);
  RouterFacts facts;
  facts.experts = config.model().experts();
  facts.top_k = config.model().top_k();
  facts.sequences = config.data().global_batch() / (config.data().accumulate() * ranks);
  facts.losses = loss_settings(config);
  ProtoSettings settings(router, "model.router");
  kind.rules(settings, facts);
}

}  // namespace yard
