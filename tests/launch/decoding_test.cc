#include "core/nn/kv_cache.h"
#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kSequences = 3, kLength = 41, kVocabulary = 37;

/// In bf16 every token meets every expert: a tie that another rounding breaks otherwise would change a token's whole result.
RunConfig config_with(const std::string& model, DType dtype) {
  RunConfig config = config_of(
      "run { seed: 2 } init { deviation: 0.3 } data { length: 41 global_batch: 3 } "
      "model { vocabulary: 37 width: 40 layers: 2 heads: 4 hidden: 24 experts: 5 top_k: 2 " +
      model + " }");
  if (dtype == DType::bf16) config.mutable_model()->set_top_k(5);
  return config;
}

/// Logits of every row, (B * T, V), of a prompt in one pass and the tokens after it one by one, each as its own pass over the cache.
std::vector<double> decoded(Rig& rig, const Tokens& whole, Index prompt) {
  Stream& stream = cpu();
  KeyValueCache cache = rig.model().transformer->make_cache(stream, kSequences, kLength);
  std::vector<double> logits(static_cast<std::size_t>(kSequences * kLength * kVocabulary));
  for (Index done = 0; done < kLength;) {
    const Index fresh = done == 0 ? prompt : 1;
    Tokens tokens;
    tokens.sequences = tokens.sequences_everywhere = kSequences;
    tokens.length = fresh;
    tokens.cache = &cache;
    tokens.ids = Tensor(stream, {tokens.rows()}, DType::i32);
    tokens.positions = Tensor(stream, {tokens.rows()}, DType::i32);
    for (Index s = 0; s < kSequences; ++s) {
      for (Index r = 0; r < fresh; ++r) {
        tokens.ids.data<std::int32_t>()[s * fresh + r] = whole.ids.data<std::int32_t>()[s * kLength + done + r];
        tokens.positions.data<std::int32_t>()[s * fresh + r] = static_cast<std::int32_t>(done + r);
      }
      cache.before().data<std::int32_t>()[s] = static_cast<std::int32_t>(done);
    }
    Context context = rig.context(tokens, done == 0 ? Pass::evaluate : Pass::decode);
    const std::vector<double> rows = to_f64(rig.model().transformer->logits(context));
    for (Index s = 0; s < kSequences; ++s) {
      std::copy_n(rows.begin() + s * fresh * kVocabulary, fresh * kVocabulary, logits.begin() + (s * kLength + done) * kVocabulary);
    }
    done += fresh;
  }
  return logits;
}

TEST(Decoding, TokensOneByOneGiveTheLogitsOfTheWholeText) {
  for (const std::string model :
       {"", "kv_heads: 2 tied_output: true", "kv_heads: 2 qk_norm: width", "kv_heads: 1 attention_cap: 5 post_norms: true",
        "shared_experts: 1 shared_hidden: 13 f32_residual: true", "router { kind: \"softmax_top_k\" normalize: false }"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Rig rig(config_with(model, dtype), dtype);
      const Tokens whole = batch_of(random_integers({kSequences, kLength}, 1, 0, kVocabulary));
      const std::vector<double> expected = to_f64(rig.logits(whole));
      for (const Index prompt : {1, 17, 40}) {
        expect_close(decoded(rig, whole, prompt), expected, dtype == DType::f32 ? 2e-5 : 0.05,
                     model + " in " + std::string(name_of(dtype)) + " after a prompt of " + std::to_string(prompt));
      }
    }
  }
}

}  // namespace
}  // namespace yard
