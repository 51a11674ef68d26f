#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/nn/model_settings.h"
#include "core/ops/routing.h"
#include "tests/support/differentiable.h"

/// Plain loops over one value at a time that say what the modules compute: no ops, no blocks, no tensors. Row-major; a scalar type S is
/// double or Var. Weights are (out, in) under their logical names.
namespace yard::test::loops {

template <class S>
using Rows = std::vector<S>;

/// y = x W^T.                                                                                      x: (n, in)  w: (out, in)
template <class S>
Rows<S> product(const Rows<S>& x, const std::vector<S>& w, std::size_t in) {
  const std::size_t out = w.size() / in;
  Rows<S> y;
  for (std::size_t n = 0; n < x.size() / in; ++n) {
    for (std::size_t o = 0; o < out; ++o) {
      S sum = 0.0;
      for (std::size_t i = 0; i < in; ++i) sum += x[n * in + i] * w[o * in + i];
      y.push_back(sum);
    }
  }
  return y;
}

template <class S>
Rows<S> rms_norm(const Rows<S>& x, const std::vector<S>& weight, double epsilon) {
  Rows<S> y;
  const std::size_t width = weight.size();
  for (std::size_t at = 0; at < x.size(); at += width) {
    S square = 0.0;
    for (std::size_t c = 0; c < width; ++c) square += x[at + c] * x[at + c];
    const S root = sqrt(square / static_cast<double>(width) + epsilon);
    for (std::size_t c = 0; c < width; ++c) y.push_back(x[at + c] / root * weight[c]);
  }
  return y;
}

/// Half-split rotary positions of one head's values.
template <class S>
void rotate(S* head, std::size_t width, double position, double base) {
  for (std::size_t i = 0; i < width / 2; ++i) {
    const double angle = position * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    const S a = head[i];
    const S b = head[i + width / 2];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + width / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

/// Causal grouped-query attention; a row attends to as many rows before it as its position says.
template <class S>
Rows<S> attention(const AttentionSettings& model, const Named<S>& w, const std::string& prefix, const Rows<S>& x,
                  const std::vector<int>& positions) {
  const std::size_t width = x.size() / positions.size();
  const auto heads = static_cast<std::size_t>(model.heads);
  const auto kv_heads = static_cast<std::size_t>(model.kv_heads);
  const auto d = static_cast<std::size_t>(model.head_width);
  Rows<S> q = product(x, w.at(prefix + "q_proj.weight"), width);
  Rows<S> k = product(x, w.at(prefix + "k_proj.weight"), width);
  const Rows<S> v = product(x, w.at(prefix + "v_proj.weight"), width);
  if (model.qk_norm == QkNorm::width) {
    q = rms_norm(q, w.at(prefix + "q_norm.weight"), static_cast<double>(model.norm_epsilon));
    k = rms_norm(k, w.at(prefix + "k_norm.weight"), static_cast<double>(model.norm_epsilon));
  }
  const std::size_t rows = positions.size();
  for (std::size_t n = 0; n < rows; ++n) {
    for (std::size_t h = 0; h < heads; ++h) rotate(&q[(n * heads + h) * d], d, positions[n], static_cast<double>(model.rope_base));
    for (std::size_t h = 0; h < kv_heads; ++h) rotate(&k[(n * kv_heads + h) * d], d, positions[n], static_cast<double>(model.rope_base));
  }
  Rows<S> mixed(rows * heads * d, S(0.0));
  for (std::size_t n = 0; n < rows; ++n) {
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t shared = h * kv_heads / heads;
      std::vector<S> weight;
      S total = 0.0;
      for (std::size_t m = n - static_cast<std::size_t>(positions[n]); m <= n; ++m) {
        S score = 0.0;
        for (std::size_t i = 0; i < d; ++i) score += q[(n * heads + h) * d + i] * k[(m * kv_heads + shared) * d + i];
        score = score * static_cast<double>(model.scale);
        const auto cap = static_cast<double>(model.cap);
        if (cap > 0) score = tanh(score / cap) * cap;
        weight.push_back(exp(score));
        total += weight.back();
      }
      for (std::size_t j = 0; j < weight.size(); ++j) {
        const std::size_t m = n + 1 - weight.size() + j;
        for (std::size_t i = 0; i < d; ++i) mixed[(n * heads + h) * d + i] += weight[j] / total * v[(m * kv_heads + shared) * d + i];
      }
    }
  }
  return product(mixed, w.at(prefix + "o_proj.weight"), heads * d);
}

template <class S>
S sigmoid(const S& x) {
  return S(1.0) / (S(1.0) + exp(-x));
}

template <class S>
S activate(const S& x, ops::Activation how) {
  switch (how) {
    case ops::Activation::silu:
      return x * sigmoid(x);
    case ops::Activation::gelu_tanh:
      return x * 0.5 * (tanh((x + x * x * x * 0.044715) * std::sqrt(2 / M_PI)) + 1.0);
    case ops::Activation::gelu:
      return x * 0.5 * (erf(x * std::sqrt(0.5)) + 1.0);
    case ops::Activation::relu:
      return number(x) > 0 ? x : S(0.0);
  }
  return x;
}

struct Names {
  std::string gate, up, down;
};
/// One feed-forward on rows; an ungated one has only `up` and `down`.
template <class S>
Rows<S> feed_forward(const FeedForwardSettings& model, const Named<S>& w, const Names& names, const Rows<S>& x) {
  const std::size_t width = w.at(names.up).size() / static_cast<std::size_t>(model.hidden);
  Rows<S> h = product(x, w.at(names.up), width);
  if (model.gated) {
    const Rows<S> gate = product(x, w.at(names.gate), width);
    for (std::size_t i = 0; i < h.size(); ++i) h[i] = activate(gate[i], model.activation) * h[i];
  } else {
    for (auto& value : h) value = activate(value, model.activation);
  }
  return product(h, w.at(names.down), w.at(names.down).size() / width);
}

/// How the router of the loops chooses, drops and is taxed.
struct Routing {
  bool normalize = true;
  double scale = 1;
  std::size_t capacity = 0;   // of a group; 0 is dropless
  std::size_t group = 0;      // rows
  bool by_weight = false;     // which choices beyond the capacity go
  double balance = 0, z = 0;  // coefficients
  enum class Form { batch, sequence, huggingface } form = Form::batch;
  std::size_t length = 0;     // rows of a sequence
  std::vector<double> noise;  // of the router's copy of x; empty for none
};

/// Sums of the auxiliary losses, and what the layers saw.
template <class S>
struct Auxiliary {
  S loss = 0.0;
  std::vector<double> balance, z;  // of each layer, at coefficient 1
  std::size_t dropped = 0;
  std::vector<std::vector<double>> counts;  // of each layer
  std::vector<std::vector<S>> probability;  // of each layer, summed over rows
  std::vector<std::vector<int>> choice;     // of each layer, (n * k), -1 where dropped
};

/// Softmax over experts and the k best of each row.
template <class S>
struct Choices {
  std::vector<S> weight;    // (n * k)
  std::vector<int> expert;  // (n * k), -1 where dropped
};
template <class S>
Choices<S> route(const MoeSettings& model, const Routing& how, const std::vector<S>& gate, const Rows<S>& x, Auxiliary<S>& aux) {
  const auto experts = static_cast<std::size_t>(model.experts);
  const std::size_t width = gate.size() / experts;
  const auto k = static_cast<std::size_t>(model.top_k);
  Rows<S> seen = x;
  for (std::size_t i = 0; i < how.noise.size(); ++i) seen[i] = seen[i] * how.noise[i];
  const Rows<S> z = product(seen, gate, width);
  const std::size_t rows = z.size() / experts;
  Choices<S> result;
  Rows<S> p;
  S squares = 0.0;
  std::vector<double> counts(experts, 0.0);
  std::vector<std::vector<double>> by_sequence(rows / how.length, std::vector<double>(experts, 0.0));
  for (std::size_t n = 0; n < rows; ++n) {
    S total = 0.0;
    for (std::size_t e = 0; e < experts; ++e) total += exp(z[n * experts + e]);
    squares += log(total) * log(total);
    for (std::size_t e = 0; e < experts; ++e) p.push_back(exp(z[n * experts + e]) / total);
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return number(p[n * experts + static_cast<std::size_t>(a)]) > number(p[n * experts + static_cast<std::size_t>(b)]);
    });
    S chosen = 0.0;
    for (std::size_t j = 0; j < k; ++j) chosen += p[n * experts + static_cast<std::size_t>(order[j])];
    for (std::size_t j = 0; j < k; ++j) {
      const S score = p[n * experts + static_cast<std::size_t>(order[j])];
      result.weight.push_back((how.normalize ? score / chosen : score) * how.scale);
      result.expert.push_back(order[j]);
      counts[static_cast<std::size_t>(order[j])] += 1;
      by_sequence[n / how.length][static_cast<std::size_t>(order[j])] += 1;
    }
  }
  // Losses: counts are constants, taken before dropping.
  const auto e_over_k = static_cast<double>(experts) / static_cast<double>(k);
  const auto balance_of = [&](std::size_t first, std::size_t count, const std::vector<double>& n) {
    S sum = 0.0;
    for (std::size_t row = first; row < first + count; ++row) {
      for (std::size_t e = 0; e < experts; ++e) sum += p[row * experts + e] * n[e];
    }
    return sum * (e_over_k / static_cast<double>(count * count));
  };
  S balance = 0.0;
  if (how.form == Routing::Form::sequence) {
    for (std::size_t s = 0; s < by_sequence.size(); ++s) {
      balance += balance_of(s * how.length, how.length, by_sequence[s]) * (1.0 / static_cast<double>(by_sequence.size()));
    }
  } else {
    balance = balance_of(0, rows, counts);
  }
  const S z_loss = squares / static_cast<double>(rows);
  if (how.form != Routing::Form::huggingface) aux.loss += balance * how.balance;
  aux.loss += z_loss * how.z;
  aux.balance.push_back(number(balance));
  aux.z.push_back(number(z_loss));
  aux.counts.push_back(counts);
  std::vector<S> probability(experts, S(0.0));
  for (std::size_t i = 0; i < p.size(); ++i) probability[i % experts] += p[i];
  aux.probability.push_back(probability);

  if (how.capacity > 0) {
    for (std::size_t first = 0; first < rows; first += how.group) {
      for (std::size_t e = 0; e < experts; ++e) {
        std::vector<std::size_t> slots;
        for (std::size_t slot = first * k; slot < (first + how.group) * k; ++slot) {
          if (result.expert[slot] == static_cast<int>(e)) slots.push_back(slot);
        }
        while (slots.size() > how.capacity) {  // one at a time: the last, or the last of the smallest weight
          std::size_t out = slots.size() - 1;
          for (std::size_t i = slots.size(); how.by_weight && i-- > 0;) {
            if (number(result.weight[slots[i]]) < number(result.weight[slots[out]])) out = i;
          }
          result.expert[slots[out]] = -1;
          slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(out));
          ++aux.dropped;
        }
      }
    }
  }
  aux.choice.push_back(result.expert);
  return result;
}

/// sum over a row's choices of weight * expert(row), plus the shared experts.
template <class S>
Rows<S> moe(const MoeSettings& model, const Routing& how, const Named<S>& w, const std::string& prefix, const Rows<S>& x,
            Auxiliary<S>& aux) {
  const std::size_t width = w.at(prefix + "gate.weight").size() / static_cast<std::size_t>(model.experts);
  const auto k = static_cast<std::size_t>(model.top_k);
  const Choices<S> choices = route(model, how, w.at(prefix + "gate.weight"), x, aux);
  Rows<S> y(x.size(), S(0.0));
  for (std::size_t slot = 0; slot < choices.expert.size(); ++slot) {
    if (choices.expert[slot] < 0) continue;
    const std::size_t row = slot / k;
    const std::string expert = prefix + "experts." + std::to_string(choices.expert[slot]) + ".";
    const Rows<S> one(x.begin() + static_cast<std::ptrdiff_t>(row * width), x.begin() + static_cast<std::ptrdiff_t>((row + 1) * width));
    const Rows<S> out = feed_forward(model.expert, w, {expert + "w1.weight", expert + "w3.weight", expert + "w2.weight"}, one);
    for (std::size_t c = 0; c < width; ++c) y[row * width + c] += choices.weight[slot] * out[c];
  }
  if (model.shared) {
    const std::string shared = prefix + "shared_experts.";
    const Rows<S> out =
        feed_forward(*model.shared, w, {shared + "gate_proj.weight", shared + "up_proj.weight", shared + "down_proj.weight"}, x);
    const Rows<S> gate = model.shared_gate ? product(x, w.at(prefix + "shared_expert_gate.weight"), width) : Rows<S>();
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += model.shared_gate ? sigmoid(gate[i / width]) * out[i] : out[i];
  }
  return y;
}

/// A whole model: logits of every row, and the auxiliary losses of its layers.
template <class S>
Rows<S> transformer(const ModelSettings& model, const Routing& how, const Named<S>& w, const std::vector<int>& ids,
                    const std::vector<int>& positions, Auxiliary<S>& aux) {
  const auto width = static_cast<std::size_t>(model.width);
  Rows<S> x;
  for (const int id : ids) {
    for (std::size_t c = 0; c < width; ++c) {
      x.push_back(w.at("model.embed_tokens.weight")[static_cast<std::size_t>(id) * width + c] * static_cast<double>(model.embedding_scale));
    }
  }
  std::size_t experts = 0;
  for (Index number = 0; number < model.depth(); ++number) {
    const LayerSettings& layer = model.layer(number);
    const std::string prefix = "model.layers." + std::to_string(number) + ".";
    const auto epsilon = static_cast<double>(layer.norm_epsilon);
    const auto branch = [&](const std::string& norm, const std::string& post, const auto& inner) {
      Rows<S> y = inner(rms_norm(x, w.at(prefix + norm), epsilon));
      if (layer.post_norms) y = rms_norm(y, w.at(prefix + post), epsilon);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    };
    const auto dense = [&](const FeedForwardSettings& settings, const std::string& name, const Rows<S>& rows) {
      return feed_forward(settings, w,
                          {prefix + name + "gate_proj.weight", prefix + name + "up_proj.weight", prefix + name + "down_proj.weight"}, rows);
    };
    branch("input_layernorm.weight", "attention_output_norm.weight",
           [&](const Rows<S>& rows) { return attention(layer.attention, w, prefix + "self_attn.", rows, positions); });
    branch("post_attention_layernorm.weight", "feed_forward_output_norm.weight", [&](const Rows<S>& rows) {
      if (layer.moe() == nullptr) return dense(std::get<FeedForwardSettings>(layer.feed_forward), "mlp.", rows);
      experts = static_cast<std::size_t>(layer.moe()->experts);
      return moe(*layer.moe(), how, w, prefix + "block_sparse_moe.", rows, aux);
    });
    if (layer.dense_after) {
      branch("dense_after_layernorm.weight", "dense_after_output_norm.weight",
             [&](const Rows<S>& rows) { return dense(*layer.dense_after, "dense_after.", rows); });
    }
  }
  if (how.form == Routing::Form::huggingface) {  // rows of all layers pooled before the product
    const auto layers = static_cast<double>(aux.counts.size());
    const double pooled = layers * static_cast<double>(ids.size());
    for (std::size_t e = 0; e < experts; ++e) {
      double chosen = 0;
      S probability = 0.0;
      for (std::size_t layer = 0; layer < aux.counts.size(); ++layer) {
        chosen += aux.counts[layer][e];
        probability += aux.probability[layer][e];
      }
      aux.loss += probability * (how.balance * static_cast<double>(experts) * chosen / (pooled * pooled));
    }
  }
  Rows<S> logits = product(rms_norm(x, w.at("model.norm.weight"), static_cast<double>(model.norm_epsilon)),
                           w.at(model.tied_output ? "model.embed_tokens.weight" : "lm_head.weight"), width);
  for (auto& value : logits) value = value * static_cast<double>(model.output_scale);
  return logits;
}

/// The mean cross-entropy of the unmasked targets, in nats.
template <class S>
S cross_entropy(const Rows<S>& logits, const std::vector<int>& targets) {
  const std::size_t vocabulary = logits.size() / targets.size();
  S nats = 0.0;
  double count = 0;
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] < 0) continue;
    S total = 0.0;
    for (std::size_t v = 0; v < vocabulary; ++v) total += exp(logits[n * vocabulary + v]);
    nats += log(total) - logits[n * vocabulary + static_cast<std::size_t>(targets[n])];
    count += 1;
  }
  return nats / count;
}

}  // namespace yard::test::loops
