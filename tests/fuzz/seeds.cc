#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

/// Writes what fuzzing begins with, files that are right: seeds FOLDER makes FOLDER/safetensors and FOLDER/token_file.

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
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

int main(int count, char** words) try {
  if (count != 2) throw std::runtime_error("usage: seeds FOLDER");
  const std::filesystem::path folder = words[1];
  std::filesystem::create_directories(folder / "safetensors");
  std::filesystem::create_directories(folder / "token_file");
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
  return 0;
} catch (const std::exception& error) {
  std::cerr << "seeds: " << error.what() << "\n";
  return 1;
}
