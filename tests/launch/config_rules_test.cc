#include "launch/config_rules.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "launch/config_reader.h"
#include "launch/model_from_config.h"
#include "tests/support/support.h"

using namespace yard;
using testing::AllOf;
using testing::HasSubstr;

namespace {
RunConfig resolved(const std::string& text, int ranks = 1) { return resolve(parse_config(text, "test"), ranks); }

/// The sentence that `text` is refused with on `ranks` ranks.
std::string refusal(const std::string& text, int ranks = 1) {
  try {
    resolved(text, ranks);
  } catch (const InputError& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(Resolve, FillsWhatDependsOnOtherFields) {
  const RunConfig config =
      resolved("run { steps: 250 seed: 9 } model { width: 96 heads: 6 hidden: 40 shared_experts: 3 } optimizer { peak_rate: 2e-3 }", 4);
  EXPECT_EQ(config.mesh().expert(), 1);
  EXPECT_EQ(config.mesh().data(), 4);
  EXPECT_EQ(config.model().kv_heads(), 6);
  EXPECT_EQ(config.model().head_width(), 16);
  EXPECT_DOUBLE_EQ(config.model().attention_scale(), 0.25);
  EXPECT_EQ(config.model().positions(), config.data().length());
  EXPECT_EQ(config.model().top_k(), 2);
  EXPECT_EQ(config.model().dense_hidden(), 40);
  EXPECT_EQ(config.model().shared_hidden(), 120);
  EXPECT_TRUE(config.model().router().normalize());
  EXPECT_EQ(config.model().router().group_sequences(), 1);
  EXPECT_FALSE(config.model().router().has_capacity_factor());
  EXPECT_DOUBLE_EQ(config.optimizer().final_rate(), 2e-4);
  EXPECT_EQ(config.optimizer().warmup_steps(), 3);
  EXPECT_FALSE(config.optimizer().has_decay_steps());
  EXPECT_EQ(config.data().seed(), 9U);
  EXPECT_EQ(config.init().seed(), 9U);
  EXPECT_EQ(config.data().validation_windows(), 1024);
  EXPECT_EQ(config.run().device(), RunConfig::Device::auto_) << "until the run knows its machine";
  EXPECT_EQ(config.run().communication(), RunConfig::Communication::mpi);
  EXPECT_EQ(config.run().precision(), RunConfig::Precision::auto_);
  EXPECT_EQ(config.exchange().algorithm(), "direct");
}

TEST(Resolve, KeepsWhatIsGiven) {
  const RunConfig config = resolved(
      "mesh { expert: 2 } run { seed: 4 } init { seed: 5 } data { seed: 6 length: 8 validation_windows: 3 global_batch: 12 } "
      "model { width: 10 heads: 4 kv_heads: 2 head_width: 6 positions: 20 attention_scale: 1 top_k: 1 dense_hidden: 3 shared_hidden: 7 } "
      "optimizer { schedule: wsd decay_steps: 100 warmup_steps: 0 final_rate: 0 }",
      6);
  EXPECT_EQ(config.mesh().data(), 3);
  EXPECT_EQ(config.init().seed(), 5U);
  EXPECT_EQ(config.data().seed(), 6U);
  EXPECT_EQ(config.data().validation_windows(), 3);
  EXPECT_EQ(config.model().head_width(), 6);
  EXPECT_EQ(config.model().positions(), 20);
  EXPECT_DOUBLE_EQ(config.model().attention_scale(), 1);
  EXPECT_FALSE(config.model().router().normalize());  // top-1: the weight is the probability
  EXPECT_EQ(config.model().shared_hidden(), 7);
  EXPECT_EQ(config.optimizer().warmup_steps(), 0);
  EXPECT_EQ(config.optimizer().decay_steps(), 100);
  EXPECT_DOUBLE_EQ(config.optimizer().final_rate(), 0);
}

TEST(Resolve, WritesEveryDefaultDownAndIsIdempotent) {
  const RunConfig once = resolved("model { experts: 4 } optimizer { schedule: wsd }", 2);
  const std::string text = to_text(once);
  for (const char* line :
       {"  balance: 0.01\n", "  beta2: 0.95\n", "  keep: 3\n", "  rope_base: 10000\n", "  kind: \"softmax_top_k\"\n", "  data: 2\n",
        "    embedding: 1\n", "  decay_steps: 100\n", "  scope: batch\n", "  max_skips: 0\n", "  async: true\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_EQ(to_text(resolve(parse_config(text, "again"), 2)), text);
}

TEST(Resolve, IsIdempotentForEveryRouter) {
  for (const RouterKind& kind : router_table()) {
    const std::string text = to_text(resolved("model { router { kind: " + std::string(kind.name) + " } }", 2));
    EXPECT_EQ(to_text(resolve(parse_config(text, "again"), 2)), text) << kind.name;
  }
}

TEST(Resolve, RefusesWhatDoesNotFitTheRanks) {
  EXPECT_EQ(refusal("model { experts: 6 } mesh { expert: 4 }", 4),
            "model.experts is 6, which mesh.expert 4 does not divide: mesh.expert may be 1, 2, 3 or 6");
  EXPECT_EQ(refusal("mesh { expert: 2 data: 2 }", 2),
            "mesh.expert x mesh.data is 2 x 2 = 4, but 2 ranks run: start with 'mpirun -np 4', or give a mesh.expert and mesh.data whose "
            "product is 2");
  EXPECT_EQ(
      refusal("mesh { expert: 4 }", 1),
      "mesh.expert is 4, but 1 rank runs, which is no multiple of it: start with 'mpirun -np 4', or give a mesh.expert that divides 1");
  EXPECT_THAT(refusal("mesh { expert: 4 }", 6), HasSubstr("'mpirun -np 8'"));
  EXPECT_EQ(refusal("data { global_batch: 10 accumulate: 2 }", 4),
            "data.global_batch is 10, but must be a multiple of data.accumulate x ranks = 2 x 4 = 8, such as 8 or 16");
  EXPECT_THAT(refusal("data { global_batch: 3 }", 4), HasSubstr("such as 4 or 8"));
  EXPECT_THAT(refusal("mesh { tensor: 2 }", 2), AllOf(HasSubstr("mesh.tensor is 2"), HasSubstr("must be 1")));
  EXPECT_THAT(refusal("mesh { pipeline: 2 }", 2), AllOf(HasSubstr("mesh.pipeline is 2"), HasSubstr("must be 1")));
  EXPECT_THAT(refusal("model { router { group_sequences: 3 } } data { global_batch: 16 accumulate: 2 }", 2),
              AllOf(HasSubstr("model.router.group_sequences is 3"), HasSubstr("a rank holds in a micro-batch, 4: it may be 1, 2 or 4")));
  EXPECT_THAT(refusal("data { global_batch: 65536 length: 32768 } model { positions: 32768 }"), HasSubstr("raise data.accumulate"));
}

struct Case {
  const char* text;
  std::vector<const char*> words;
};

TEST(Resolve, RefusesModelsThatCannotBe) {
  const Case cases[] = {
      {"model { experts: 4 top_k: 5 }", {"model.top_k is 5", "model.experts 4", "from 1 to 4"}},
      {"model { top_k: 0 }", {"model.top_k is 0", "at least 1"}},
      {"model { heads: 6 kv_heads: 4 width: 96 }", {"model.heads is 6", "model.kv_heads 4", "may be 1, 2, 3 or 6"}},
      {"model { head_width: 7 }", {"model.head_width is 7", "even"}},
      {"model { width: 10 heads: 4 }", {"model.width is 10", "model.heads 4", "give model.head_width"}},
      {"model { width: 12 heads: 4 }", {"model.head_width is 3", "even"}},
      {"model { positions: 100 } data { length: 101 }", {"model.positions is 100", "data.length 101"}},
      {"model { vocabulary: 1 }", {"model.vocabulary is 1", "at least 2"}},
      {"model { width: 0 }", {"model.width is 0", "at least 1"}},
      {"model { layers: -3 }", {"model.layers is -3", "at least 1"}},
      {"model { experts: 0 }", {"model.experts is 0", "at least 1"}},
      {"model { dropout: 1 }", {"model.dropout is 1", "at least 0 and below 1"}},
      {"model { expert_dropout: -0.1 }", {"model.expert_dropout is -0.1", "at least 0 and below 1"}},
      {"model { norm_epsilon: 0 }", {"model.norm_epsilon is 0", "above 0"}},
      {"model { rope_base: 1 }", {"model.rope_base is 1", "above 1"}},
      {"model { attention_scale: 0 }", {"model.attention_scale is 0", "above 0"}},
      {"model { attention_cap: nan }", {"model.attention_cap is nan", "at least 0"}},
      {"model { first_dense_layers: 4 }", {"model.first_dense_layers 4", "model.layers 4", "set model.experts to 1"}},
      {"model { moe_every: 5 }", {"model.moe_every 5", "layer 4", "model.layers 4"}},
      {"model { shared_gate: true }", {"model.shared_gate", "model.shared_experts"}},
      {"model { experts: 1 shared_experts: 1 }", {"model.shared_hidden is 512", "model.experts is 1"}},
      {"model { experts: 1 dense_after: 8 }", {"model.dense_after is 8", "model.experts is 1"}},
      {"model { router { capacity_factor: 0 } }", {"model.router.capacity_factor is 0", "above 0"}},
      {"model { router { evaluation_capacity: -1 } }", {"model.router.evaluation_capacity is -1", "above 0"}},
      {"model { router { jitter: 1 } }", {"model.router.jitter is 1", "below 1"}},
      {"model { router { groups: 2 } }", {"model.router.groups is 2", "softmax_top_k"}},
      {"model { router { groups: 3 kind: sigmoid_top_k } }", {"model.experts is 8", "model.router.groups 3"}},
      {"model { router { group_top_k: 2 kind: sigmoid_top_k } }", {"model.router.group_top_k is 2", "model.router.groups 1"}},
      {"model { router { jitter: 0.1 kind: sigmoid_top_k } }", {"model.router.jitter is 0.1", "sigmoid_top_k"}},
      {"model { router { kind: softmax_topk } }", {"model.router.kind is 'softmax_topk'", "did you mean 'softmax_top_k'?"}},
      {"model { router { kind: zzz } }", {"model.router.kind is 'zzz'", "sigmoid_top_k and softmax_top_k"}},
      {"model { experts: 1 router { kind: zzz } }", {"model.router.kind is 'zzz'"}},
      {"model { router { max_experts: 3 } }", {"model.router.max_experts is 3", "softmax_top_k"}},
      {"model { router { bias_rate: 0.001 } }", {"model.router.bias_rate is 0.001", "softmax_top_k"}},
      {"model { router { threshold: 0.4 } }", {"model.router.threshold is 0.4", "softmax_top_k"}},
  };
  for (const Case& each : cases) {
    for (const char* word : each.words) EXPECT_THAT(refusal(each.text), HasSubstr(word)) << each.text;
  }
}

TEST(Resolve, RefusesRunsThatCannotBe) {
  const Case cases[] = {
      {"run { steps: 0 }", {"run.steps is 0", "at least 1"}},
      {"run { steps: 3000000000 }", {"run.steps is 3000000000", "at most 2147483647"}},
      {"run { threads: -1 }", {"run.threads is -1", "at least 0"}},
      {"run { log_every: 0 }", {"run.log_every is 0", "at least 1"}},
      {"run { watchdog_seconds: -1 }", {"run.watchdog_seconds is -1", "at least 0"}},
      {"run { routing: skewed skew: 1.5 }", {"run.skew is 1.5", "at most 1"}},
      {"run { device: cuda }", {"run.device is 'cuda'", "no CUDA backend"}},
      {"run { communication: nccl }", {"run.communication is 'nccl'", "'mpi'"}},
      {"run { communication: staged }", {"run.communication is 'staged'", "'mpi'"}},
      {"exchange { algorithm: pairwise }", {"exchange.algorithm is 'pairwise'", "must be auto or direct"}},
      {"exchange { algorithm: dirct }", {"exchange.algorithm is 'dirct'", "did you mean 'direct'?"}},
      {"exchange { chunks: 9 }", {"exchange.chunks is 9", "from 1 to 8"}},
      {"exchange { chunks: 0 }", {"exchange.chunks is 0", "at least 1"}},
      {"losses { balance: -1 }", {"losses.balance is -1", "at least 0"}},
      {"losses { z: inf }", {"losses.z is inf", "finite"}},
      {"losses { convention: huggingface scope: sequence }", {"losses.convention is 'huggingface'", "losses.scope must be 'batch'"}},
      {"data { length: 0 }", {"data.length is 0", "at least 1"}},
      {"data { global_batch: 0 }", {"data.global_batch is 0", "at least 1"}},
      {"data { accumulate: 0 }", {"data.accumulate is 0", "at least 1"}},
      {"data { validation_windows: 0 }", {"data.validation_windows is 0", "at least 1"}},
      {"data { tokenizer: '' }", {"data.tokenizer is empty", "'bytes'"}},
      {"optimizer { peak_rate: -1e-3 }", {"optimizer.peak_rate is -0.001", "at least 0"}},
      {"optimizer { peak_rate: 1e-4 final_rate: 1e-3 }", {"optimizer.final_rate is 0.001", "optimizer.peak_rate 0.0001"}},
      {"optimizer { final_rate: -1 }", {"optimizer.final_rate is -1", "at least 0"}},
      {"optimizer { beta1: 1 }", {"optimizer.beta1 is 1", "below 1"}},
      {"optimizer { beta2: -0.1 }", {"optimizer.beta2 is -0.1", "at least 0"}},
      {"optimizer { epsilon: 0 }", {"optimizer.epsilon is 0", "above 0"}},
      {"optimizer { decay: -0.1 }", {"optimizer.decay is -0.1", "at least 0"}},
      {"optimizer { clip: -1 }", {"optimizer.clip is -1", "at least 0"}},
      {"optimizer { scale { router: -1 } }", {"optimizer.scale.router is -1", "at least 0"}},
      {"optimizer { warmup_steps: 11 } run { steps: 10 }", {"optimizer.warmup_steps is 11", "run.steps 10"}},
      {"optimizer { decay_steps: 5 }", {"optimizer.decay_steps", "'wsd'", "'cosine'"}},
      {"optimizer { schedule: wsd decay_steps: 9 warmup_steps: 2 } run { steps: 10 }",
       {"optimizer.warmup_steps 2", "optimizer.decay_steps 9", "run.steps 10"}},
      {"checkpoint { keep: 1 }", {"checkpoint.keep is 1", "at least 2"}},
      {"checkpoint { every: -1 }", {"checkpoint.every is -1", "at least 0"}},
      {"init { deviation: -1 }", {"init.deviation is -1", "at least 0"}},
  };
  for (const Case& each : cases) {
    for (const char* word : each.words) EXPECT_THAT(refusal(each.text), HasSubstr(word)) << each.text;
  }
}

TEST(Resolve, AllowsWhatIsOnTheEdge) {
  for (const char* text :
       {"model { experts: 1 }", "model { experts: 2 top_k: 2 }", "model { top_k: 1 }", "optimizer { clip: 0 decay: 0 warmup_steps: 0 }",
        "run { steps: 1 }", "run { steps: 1 } optimizer { schedule: wsd }", "run { routing: balanced watchdog_seconds: 0 }",
        "model { router { capacity_factor: 1.25 drop: weight } }", "model { first_dense_layers: 3 }", "model { moe_every: 4 }",
        "losses { convention: huggingface balance: 0 z: 0 }", "model { router { groups: 4 group_top_k: 2 kind: sigmoid_top_k } }",
        "model { positions: 256 } data { length: 256 }", "exchange { algorithm: direct }"}) {
    EXPECT_EQ(refusal(text), "nothing was refused") << text;
  }
}

TEST(Resolve, LeavesTrainingDataToWhoTrains) {
  EXPECT_NO_THROW(resolved(""));
  EXPECT_THROW(check_trainable(resolved("")), InputError);
}

TEST(ModelSettings, CarriesEveryFieldOver) {
  const ModelSettings model = model_from_config(resolved(
      "init { deviation: 0.5 scale_residual: false } data { length: 3 } "
      "model { vocabulary: 11 width: 12 layers: 13 heads: 6 kv_heads: 3 head_width: 14 positions: 15 experts: 16 top_k: 4 hidden: 18 "
      "gated: false activation: gelu_tanh dense_hidden: 19 dense_after: 20 first_dense_layers: 1 moe_every: 2 shared_hidden: 21 "
      "shared_gate: true attention_scale: 0.75 attention_cap: 30 post_norms: true embedding_scale: 3 output_scale: 0.5 rope_base: 500 "
      "norm_epsilon: 0.25 qk_norm: width tied_output: true dropout: 0.125 expert_dropout: 0.0625 f32_residual: true recompute: full }"));
  EXPECT_EQ(model.vocabulary, 11);
  EXPECT_EQ(model.width, 12);
  EXPECT_EQ(model.positions, 15);
  EXPECT_EQ(model.embedding_scale, 3);
  EXPECT_EQ(model.output_scale, 0.5F);
  EXPECT_EQ(model.norm_epsilon, 0.25F);
  EXPECT_TRUE(model.tied_output);
  EXPECT_TRUE(model.f32_residual);
  EXPECT_EQ(model.recompute, Recompute::full);
  EXPECT_EQ(model.deviation, 0.5F);
  EXPECT_FALSE(model.scale_residual);
  EXPECT_EQ(model.depth(), 13);
  EXPECT_EQ(model.moe_layers(), 6);
  for (Index number = 0; number < 13; ++number) {
    const LayerSettings& layer = model.layer(number);
    EXPECT_EQ(layer.attention.heads, 6);
    EXPECT_EQ(layer.attention.kv_heads, 3);
    EXPECT_EQ(layer.attention.head_width, 14);
    EXPECT_EQ(layer.attention.scale, 0.75F);
    EXPECT_EQ(layer.attention.cap, 30);
    EXPECT_EQ(layer.attention.rope_base, 500);
    EXPECT_EQ(layer.norm_epsilon, 0.25F);
    EXPECT_EQ(layer.attention.qk_norm, QkNorm::width);
    EXPECT_EQ(layer.attention.norm_epsilon, 0.25F);
    EXPECT_TRUE(layer.post_norms);
    EXPECT_EQ(layer.dropout, 0.125F);
    const auto expect_feed_forward = [](const FeedForwardSettings& settings, Index hidden, float dropout) {
      EXPECT_EQ(settings.hidden, hidden);
      EXPECT_FALSE(settings.gated);
      EXPECT_EQ(settings.activation, ops::Activation::gelu_tanh);
      EXPECT_EQ(settings.dropout, dropout);
    };
    ASSERT_EQ(layer.moe() != nullptr, number % 2 == 1) << number;
    EXPECT_EQ(layer.dense_after.has_value(), number % 2 == 1) << number;
    if (number % 2 == 0) {
      expect_feed_forward(std::get<FeedForwardSettings>(layer.feed_forward), 19, 0);
      continue;
    }
    EXPECT_EQ(layer.moe()->experts, 16);
    EXPECT_EQ(layer.moe()->top_k, 4);
    EXPECT_TRUE(layer.moe()->shared_gate);
    expect_feed_forward(layer.moe()->expert, 18, 0.0625F);
    expect_feed_forward(layer.moe()->shared.value(), 21, 0);
    expect_feed_forward(layer.dense_after.value(), 20, 0);
  }
}

TEST(ModelSettings, WantsAResolvedConfiguration) { EXPECT_THROW(model_from_config(RunConfig()), Error); }

TEST(ModelSettings, KnowsEveryActivationAndRecomputation) {
  using ops::Activation;
  const std::pair<const char*, Activation> activations[] = {
      {"silu", Activation::silu}, {"gelu_tanh", Activation::gelu_tanh}, {"gelu", Activation::gelu}, {"relu", Activation::relu}};
  for (const auto& [name, expected] : activations) {
    const ModelSettings model = model_from_config(resolved("model { activation: " + std::string(name) + " }"));
    EXPECT_EQ(model.layer(0).moe()->expert.activation, expected) << name;
  }
  const std::pair<const char*, Recompute> ways[] = {{"none", Recompute::none}, {"moe", Recompute::moe}, {"full", Recompute::full}};
  for (const auto& [name, expected] : ways) {
    EXPECT_EQ(model_from_config(resolved("model { recompute: " + std::string(name) + " }")).recompute, expected) << name;
  }
}

TEST(ModelSettings, ADenseModelIsOfTheWidthOfAnExpert) {
  const ModelSettings model = model_from_config(resolved("model { experts: 1 hidden: 18 dense_hidden: 19 }"));
  EXPECT_EQ(std::get<FeedForwardSettings>(model.layer(0).feed_forward).hidden, 18);
}
}  // namespace
