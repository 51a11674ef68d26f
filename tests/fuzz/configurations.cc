#include "tests/fuzz/configurations.h"

#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "parallel/exchange/exchange.h"
#include "tests/fuzz/fuzz.h"

namespace yard {

/// Only the names: no model is built here.
std::vector<ExchangeKind> exchange_table() { return {{"direct", nullptr}}; }

namespace fuzz {
namespace {

/// Routers with the fields of those in core/nn/routers, and without their rules and their layers, which would need all of core.
RouterTable router_names() {
  const auto rules = [](Settings& settings, const RouterFacts& facts) { settings.fill("normalize", facts.top_k > 1); };
  return {{"softmax_top_k", {"normalize", "scale", "jitter", "capacity_factor", "evaluation_capacity"}, rules, nullptr},
          {"sigmoid_top_k", {"normalize", "scale", "bias_rate", "groups", "group_top_k"}, rules, nullptr}};
}

}  // namespace

RunConfig resolved(const RunConfig& config) { return resolve(config, 1, router_names()); }

void expect_resolved(const RunConfig& once) {
  expect(resolved(once).SerializeAsString() == once.SerializeAsString(), "a resolved configuration is not resolved");
  expect(parse_config(to_text(once), "text").SerializeAsString() == once.SerializeAsString(),
         "a configuration changes when it is read back");
}

}  // namespace fuzz
}  // namespace yard
