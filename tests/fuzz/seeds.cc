#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "tests/fuzz/pieces.h"

/// Writes the seeds of all fuzz targets, files that are right: `seeds FOLDER` makes FOLDER/safetensors and so on.

namespace {

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string safetensors(const std::string& header, std::size_t data) {
  std::string zeros(data, '\0');
  for (std::size_t i = 0; i < data; ++i) zeros[i] = static_cast<char>(i * 37);
  return raw<std::uint64_t>({header.size()}) + header + zeros;
}

std::string megatron(char vocabulary, char code, std::size_t width, const std::string& modes) {
  const auto bytes = static_cast<std::int64_t>(width);
  const std::string index = std::string("MMIDIDX\0\0", 9) + raw<std::uint64_t>({1}) + code + raw<std::uint64_t>({3, 3}) +
                            raw<std::int32_t>({2, 0, 1}) + raw<std::int64_t>({0, 2 * bytes, 2 * bytes}) + raw<std::int64_t>({0, 2, 3}) +
                            modes;
  std::string tokens(3 * width, '\0');
  for (std::size_t i = 0; i < 3; ++i) tokens[i * width] = static_cast<char>(i + 1);
  return std::string{1, vocabulary, static_cast<char>(index.size()), '\0'} + index + tokens;
}

template <class T>
std::string llmc(char format, std::int32_t magic, std::int32_t version, const std::vector<T>& ids) {
  std::vector<std::int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = static_cast<std::int32_t>(ids.size());
  return std::string{format, '\0'} + raw(header) + raw(ids);
}

void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

/// Parts with zero bytes between them.
std::string parts(const std::vector<std::string>& texts) {
  std::string joined;
  for (const std::string& text : texts) joined += (joined.empty() ? "" : std::string(1, '\0')) + text;
  return joined;
}

void put_hugging_face_configs(const std::filesystem::path& folder) {
  const std::string common = R"("vocab_size":512,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,)";
  const std::string generation = R"({"eos_token_id":[2,300],"bos_token_id":1,"do_sample":true})";
  const std::string tokenizer = R"({"add_bos_token":false,"tokenizer_class":"LlamaTokenizer"})";
  put(folder / "mixtral", "{" + common +
                              R"("model_type":"mixtral","architectures":["MixtralForCausalLM"],"num_key_value_heads":2,)"
                              R"("num_local_experts":8,"num_experts_per_tok":2,"sliding_window":128,"router_aux_loss_coef":0.02,)"
                              R"("router_jitter_noise":0.1,"rope_theta":1000000.0,"rms_norm_eps":1e-05,"torch_dtype":"bfloat16",)"
                              R"("max_position_embeddings":128,"tie_word_embeddings":false,"hidden_act":"silu","bos_token_id":1})");
  put(folder / "llama", parts({"{" + common +
                                   R"("model_type":"llama","head_dim":32,"attention_bias":false,"mlp_bias":false,)"
                                   R"("rope_scaling":null,"tie_word_embeddings":true,"eos_token_id":[2,3],"pretraining_tp":1})",
                               generation, tokenizer}));
  put(folder / "olmoe", parts({"{" + common +
                                   R"("model_type":"olmoe","num_experts":4,"num_experts_per_tok":1,"norm_topk_prob":true,)"
                                   R"("rope_parameters":{"rope_theta":10000.0,"rope_type":"default"},"clip_qkv":null,"dtype":"float32",)"
                                   R"("layer_types":["full_attention","full_attention"],"use_cache":true})",
                               generation}));
  put(folder / "switchyard", R"({"model_type":"switchyard","switchyard":{"vocabulary":"512","width":"64","experts":"4","top_k":"2",)"
                             R"("router":{"kind":"sigmoid_top_k","groups":"2"},"activation":"gelu_tanh","gated":false}})");
}

void put_sentencepiece(const std::filesystem::path& folder) {
  for (const char first : {'\0', '\1'}) {
    for (const bool unigram : {false, true}) {
      for (const bool prefix : {false, true}) {
        put(folder / (std::string(unigram ? "unigram" : "bpe") + (prefix ? "_prefix" : "") + (first != 0 ? "_bytes" : "")),
            first + yard::fuzz::small_model(unigram, prefix, prefix && first == 0));
      }
    }
  }
}

void put_own_bytes(const std::filesystem::path& folder) {
  for (const bool unigram : {false, true}) {
    put(folder / (unigram ? "unigram_own_bytes" : "bpe_own_bytes"),
        std::string(1, '\0') + yard::fuzz::small_model(unigram, !unigram, false) + yard::fuzz::byte_pieces());
  }
}

void put_tokenizer_json(const std::filesystem::path& folder) {
  const std::string token = R"("lstrip":false,"rstrip":false,"single_word":false,"special":true,"normalized":false})";
  const std::string file = R"({"added_tokens":[{"id":1,"content":"<s>",)" + token + R"(,{"id":11,"content":"<|a|>",)" + token +
                           R"(],"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Metaspace","prepend_scheme":"first"}]}})";
  const std::string config = R"({"added_tokens_decoder":{"11":{"content":"<|a|>","lstrip":true,"rstrip":true,"special":false},)"
                             R"("3":{"content":"a","special":false}},"legacy":false,"split_special_tokens":true})";
  const std::string legacy = R"({"<|b|>":12,"b\n":13})";
  put(folder / "bytes", std::string("\3") + file);
  put(folder / "plain", std::string(1, '\0') + parts({file, config, legacy}));
  put(folder / "prefix", std::string("\7") + parts({R"({"pre_tokenizer":{"prepend_scheme":"never"}})", R"({"legacy":true})", legacy}));
  put(folder / "unigram", std::string("\x0b") + parts({"{}", config}));
}

void put_config_text(const std::filesystem::path& folder) {
  put(folder / "plain",
      parts({"# A comment\nrun { steps: 20 precision: bf16 }\nmodel { width: 64 layers: 2 experts: 4 router { kind: sigmoid_top_k } }\n"
             "data { train: \"a b\" length: 16 global_batch: 4 tokenizer: bytes }\noptimizer { peak_rate: 1e-3 schedule: wsd }\n",
             "model.width=128", "model.router.kind=softmax_top_k", "data.train="}));
  put(folder / "other",
      parts({"\xef\xbb\xbfmodel: <dropout: .5f, gated: false; stop_tokens: '2, 3'>losses { convention: huggingface z: -0 }",
             "mesh.expert=2", "checkpoint.keep=3", "init.deviation=inf"}));
  put(folder / "numbers",
      parts({"model { vocabulary: 300 width: 64 layers: 4 heads: 4 kv_heads: 2 head_width: 16 positions: 32 experts: 6 top_k: 2 hidden: 48 "
             "dense_hidden: 96 first_dense_layers: 1 moe_every: 2 shared_experts: 1 window: 32 start_token: 1 attention_scale: 0.25 "
             "router { capacity_factor: 1.25 } } exchange { chunks: 2 } mesh { expert: 1 data: 1 tensor: 1 pipeline: 1 } "
             "data { length: 32 global_batch: 8 accumulate: 2 validation_windows: 3 end_of_text: 256 } "
             "optimizer { warmup_steps: 2 decay_steps: 4 schedule: wsd final_rate: 1e-5 } run { steps: 40 threads: 1 } checkpoint { keep: "
             "2 }",
             "model.kv_heads=1", "data.accumulate=4", "run.steps=80"}));
}

}  // namespace

int main(int count, char** words) try {
  if (count != 2) throw std::runtime_error("usage: seeds FOLDER");
  const std::filesystem::path folder = words[1];
  const auto one = [&](const std::string& name, const std::string& dtype, std::size_t width) {
    put(folder / "safetensors" / name,
        safetensors(R"({"w":{"dtype":")" + dtype + R"(","shape":[2,3],"data_offsets":[0,)" + std::to_string(6 * width) + "]}}", 6 * width));
  };
  one("f16", "F16", 2);
  one("bf16", "BF16", 2);
  one("f32", "F32", 4);
  one("f64", "F64", 8);
  one("i32", "I32", 4);
  one("i64", "I64", 8);
  one("u8", "U8", 1);
  put(folder / "safetensors" / "none", safetensors("{}      ", 0));
  put(folder / "safetensors" / "empty", safetensors(R"({"a":{"dtype":"F32","shape":[4,0],"data_offsets":[0,0]}})", 0));
  put(folder / "safetensors" / "several",
      safetensors(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
                  R"("b.c":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"none":{"dtype":"F32","shape":[0,4],"data_offsets":[10,10]}})",
                  10));
  constexpr std::array<std::size_t, 9> kWidths = {0, 1, 1, 2, 4, 8, 0, 0, 2};
  for (const char code : {1, 2, 3, 4, 5, 8}) {
    put(folder / "token_file" / ("megatron" + std::to_string(code)), megatron('\0', code, kWidths[static_cast<std::size_t>(code)], ""));
  }
  put(folder / "token_file" / "megatron_modes", megatron('\7', 8, 2, std::string(3, '\0')));
  put(folder / "token_file" / "gpt2", llmc<std::uint16_t>('\0', 20240520, 1, {1, 50256}));
  put(folder / "token_file" / "llama3", llmc<std::uint32_t>('\2', 20240801, 7, {1, 128000, 2}));
  put(folder / "token_file" / "nanogpt", std::string{3, 9} + raw<std::uint16_t>({1, 2, 8}));
  put_hugging_face_configs(folder / "hugging_face_config");
  put_sentencepiece(folder / "sentencepiece");
  put_own_bytes(folder / "sentencepiece");
  put_tokenizer_json(folder / "tokenizer_json");
  put_config_text(folder / "config_text");
  put(folder / "json_lines" / "plain",
      "{\"t\": \"a\\nb\\u00e9\", \"u\": 1}\n\n \t\r\n{\"t\": \"\\ud83d\\ude00 \xc3\xa9\"}\r\n{\"t\": null}");
  put(folder / "json_lines" / "mark", "\xef\xbb\xbf{\"t\": \"x\", \"s\": NaN}\n[1]\n{\"t\": \"caf\xe9\"}\n\n\nline\r\n\r\n");
  put(folder / "json_lines" / "wide", std::string("\xff\xfe\x61\0", 4));
  return 0;
} catch (const std::exception& error) {
  std::cerr << "seeds: " << error.what() << "\n";
  return 1;
}
