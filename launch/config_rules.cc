#include "launch/config_rules.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/shown.h"
#include "launch/config_fields.h"
#include "launch/config_limits.h"
#include "launch/router_rules.h"
#include "parallel/checkpoint/hugging_face.h"
#include "parallel/exchange/exchange.h"

namespace yard {

namespace {
using Int = std::int64_t;

Int rounded_up(Int value, Int divisor) { return (value + divisor - 1) / divisor; }

void resolve_mesh(RunConfig& config, Int ranks) {
  RunConfig::Mesh& mesh = *config.mutable_mesh();
  const Int experts = config.model().experts();
  const Int expert = mesh.expert();
  check_input(experts % expert == 0, "model.experts is ", experts, ", which mesh.expert ", expert, " does not divide: mesh.expert may be ",
              divisors_text(experts));
  if (!mesh.has_data()) {
    check_input(ranks % expert == 0, "mesh.expert is ", expert, ", but ", ranks, ranks == 1 ? " rank runs" : " ranks run",
                ", which is no multiple of it: start with 'mpirun -np ", rounded_up(ranks, expert) * expert,
                "', or give a mesh.expert that divides ", ranks);
    mesh.set_data(ranks / expert);
  }
  check_input(expert * mesh.data() == ranks, "mesh.expert x mesh.data is ", expert, " x ", mesh.data(), " = ", expert * mesh.data(),
              ", but ", ranks, ranks == 1 ? " rank runs" : " ranks run", ": start with 'mpirun -np ", expert * mesh.data(),
              "', or give a mesh.expert and mesh.data whose product is ", ranks);
}

void resolve_attention(RunConfig::Model& model, Int length) {
  if (!model.has_kv_heads()) model.set_kv_heads(model.heads());
  check_input(model.heads() % model.kv_heads() == 0, "model.heads is ", model.heads(), ", which is no multiple of model.kv_heads ",
              model.kv_heads(), ": model.kv_heads may be ", divisors_text(model.heads()));
  if (!model.has_head_width()) {
    check_input(model.width() % model.heads() == 0, "model.width is ", model.width(), ", which model.heads ", model.heads(),
                " does not divide: give model.head_width");
    model.set_head_width(model.width() / model.heads());
  }
  check_input(model.head_width() % 2 == 0, "model.head_width is ", model.head_width(),
              ", but must be even, because rotary positions turn pairs of values");
  if (!model.has_attention_scale()) model.set_attention_scale(1 / std::sqrt(static_cast<double>(model.head_width())));
  if (!model.has_positions()) model.set_positions(length);
  check_input(model.positions() >= length, "model.positions is ", model.positions(), ", less than data.length ", length,
              ": it must be at least as many");
}

void check_tokens(const RunConfig& config) {
  const RunConfig::Model& model = config.model();
  check_input(model.start_token() >= -1 && model.start_token() < model.vocabulary(), "model.start_token is ", model.start_token(),
              ", but must be below model.vocabulary ", model.vocabulary(), ", or -1 for none");
  (void)stop_tokens(model);
  check_input(model.window() == 0 || model.window() >= config.data().length(), "model.window is ", model.window(),
              " (sliding_window), less than data.length ", config.data().length(),
              ": attention windows shorter than a sequence are not supported, set data.length to at most ", model.window());
}

void resolve_experts(RunConfig::Model& model) {
  if (!model.has_top_k()) model.set_top_k(std::min<Int>(2, model.experts()));
  check_input(model.top_k() <= model.experts(), "model.top_k is ", model.top_k(), ", more than the model.experts ", model.experts(),
              ": it must be from 1 to ", model.experts());
  if (!model.has_dense_hidden()) model.set_dense_hidden(model.hidden());
  if (!model.has_shared_hidden()) model.set_shared_hidden(model.shared_experts() * model.hidden());
  check_input(!model.shared_gate() || model.shared_hidden() > 0,
              "model.shared_gate is true, but there are no shared experts to gate: give model.shared_experts or model.shared_hidden");
  if (model.experts() == 1) {
    check_input(model.shared_hidden() == 0, "model.shared_hidden is ", model.shared_hidden(),
                ", but model.experts is 1, a dense model without Mixture-of-Experts layers: leave model.shared_experts and "
                "model.shared_hidden out");
    check_input(model.dense_after() == 0, "model.dense_after is ", model.dense_after(),
                ", but model.experts is 1, a dense model without Mixture-of-Experts layers: leave it out");
    return;
  }
  constexpr Int kMostExperts = 10'000'000;  // each has entries of its own in several tables
  check_input(model.experts() <= kMostExperts / model.layers(), "model.layers x model.experts is ", model.layers(), " x ", model.experts(),
              ": there can be at most ", kMostExperts, " experts in all layers together");
  const Int first = rounded_up(model.first_dense_layers() + 1, model.moe_every()) * model.moe_every() - 1;
  check_input(first < model.layers(), "no layer is a Mixture-of-Experts layer: with model.first_dense_layers ", model.first_dense_layers(),
              " and model.moe_every ", model.moe_every(), " the first one would be layer ", first, ", counted from 0, of the model.layers ",
              model.layers(), "; for a dense model set model.experts to 1");
}

void resolve_exchange(RunConfig& config) {
  std::vector<std::string> names = {"auto"};
  for (const ExchangeKind& kind : exchange_table()) names.emplace_back(kind.name);
  const std::string& algorithm = config.exchange().algorithm();
  check_input(std::find(names.begin(), names.end(), algorithm) != names.end(), "exchange.algorithm is '", shown(algorithm),
              "', which this build does not have: it must be ", listed(names, "or"), suggestion(algorithm, names));
  if (algorithm == "auto") config.mutable_exchange()->set_algorithm("direct");
  const Int local = config.model().experts() / config.mesh().expert();
  const Int chunks = config.exchange().chunks();
  check_input(chunks <= local, "exchange.chunks is ", chunks, ", but a rank has ", local, local == 1 ? " expert" : " experts",
              " (model.experts / mesh.expert): it must be from 1 to ", local);
}

void resolve_data(RunConfig& config, Int ranks) {
  RunConfig::Data& data = *config.mutable_data();
  const Int unit = data.accumulate() * ranks;
  const Int near = std::max<Int>(1, data.global_batch() / unit) * unit;
  check_input(data.global_batch() % unit == 0, "data.global_batch is ", data.global_batch(),
              ", but must be a multiple of data.accumulate x ranks = ", data.accumulate(), " x ", ranks, " = ", unit, ", such as ", near,
              " or ", near + unit);
  if (!data.has_validation_windows()) data.set_validation_windows(std::max<Int>(1, 262144 / data.length()));
  if (!data.has_seed()) data.set_seed(config.run().seed());
  if (!config.init().has_seed()) config.mutable_init()->set_seed(config.run().seed());
  check_input(!data.tokenizer().empty(), "data.tokenizer is empty: it must be 'bytes', the path of a SentencePiece model, or 'none'");
  check_input(data.end_of_text() < config.model().vocabulary(), "data.end_of_text is ", data.end_of_text(),
              ", but must be below model.vocabulary, ", config.model().vocabulary());
}

/// Row and slot numbers are 32 bits wide.
void check_rows(const RunConfig& config, Int ranks) {
  const Int rows = config.data().global_batch() / (config.data().accumulate() * ranks) * config.data().length();
  constexpr Int kMost = 2147483647;
  check_input(rows <= kMost / config.model().top_k(), "a rank's micro-step holds ", rows, " tokens with model.top_k ",
              config.model().top_k(), ", more than ", kMost, " choices: raise data.accumulate, or lower data.global_batch or data.length");
}

void resolve_optimizer(RunConfig& config) {
  using Schedule = RunConfig::Schedule;
  RunConfig::Optimizer& optimizer = *config.mutable_optimizer();
  const Int steps = config.run().steps();
  if (!optimizer.has_final_rate()) optimizer.set_final_rate(optimizer.peak_rate() / 10);
  check_input(optimizer.final_rate() <= optimizer.peak_rate(), "optimizer.final_rate is ", optimizer.final_rate(),
              ", above optimizer.peak_rate ", optimizer.peak_rate());
  if (!optimizer.has_warmup_steps()) optimizer.set_warmup_steps(rounded_up(steps, 100));
  const Int warmup = optimizer.warmup_steps();
  check_input(warmup <= steps, "optimizer.warmup_steps is ", warmup, ", more than run.steps ", steps);
  if (optimizer.schedule() == Schedule::wsd) {
    if (!optimizer.has_decay_steps()) optimizer.set_decay_steps(std::min(rounded_up(steps, 10), steps - warmup));
    check_input(warmup + optimizer.decay_steps() <= steps, "optimizer.warmup_steps ", warmup, " and optimizer.decay_steps ",
                optimizer.decay_steps(), " are together more than run.steps ", steps);
  } else {
    check_input(!optimizer.has_decay_steps(), "optimizer.decay_steps is given, but only optimizer.schedule 'wsd' uses it, not '",
                Schedule::Value_Name(optimizer.schedule()), "'");
  }
}
}  // namespace

RunConfig resolve(RunConfig config, int ranks, const RouterTable& routers) {
  check(ranks >= 1, "a run has at least one rank, not ", ranks);
  check_limits(config);
  check_available(config);
  fill_plain_defaults(config);
  resolve_mesh(config, ranks);
  resolve_data(config, ranks);
  resolve_attention(*config.mutable_model(), config.data().length());
  check_tokens(config);
  resolve_experts(*config.mutable_model());
  resolve_router(config, ranks, routers);
  resolve_exchange(config);
  check_rows(config, ranks);
  resolve_optimizer(config);
  check_input(
      config.losses().convention() != RunConfig::Convention::huggingface || config.losses().scope() == RunConfig::Scope::batch,
      "losses.convention is 'huggingface', which pools the rows of the whole micro-batch: losses.scope must be 'batch', not 'sequence'");
  check_input(config.run().device() != RunConfig::Device::cuda || ranks == 1, "run.device is 'cuda' on ", ranks,
              " ranks, but ranks on GPUs cannot exchange rows yet: take one rank, or run.device=cpu");
  if (config.run().communication() == RunConfig::Communication::auto_)
    config.mutable_run()->set_communication(RunConfig::Communication::mpi);
  return config;
}

void check_tokenizer_fits(const Tokenizer& tokenizer, const std::string& name, const RunConfig& resolved) {
  check_input(tokenizer.vocabulary() <= resolved.model().vocabulary(), "model.vocabulary is ", resolved.model().vocabulary(),
              " and the tokenizer ", name, " has ", tokenizer.vocabulary(), " ids: set model.vocabulary=", tokenizer.vocabulary(),
              " for a new model, or data.tokenizer to the tokenizer of the model, or to none");
}

void check_trainable(const RunConfig& resolved) {
  check_input(!resolved.data().train().empty(),
              "data.train is not given: name the training tokens, the prefix of a .bin/.idx pair as 'switchyard tokenize' writes, or an "
              "llm.c or nanoGPT file");
}

}  // namespace yard
