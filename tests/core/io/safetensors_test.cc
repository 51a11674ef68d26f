#include "core/io/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::cpu;
using test::TemporaryFolder;

std::string file_of(const std::string& header, const std::string& data = "", std::int64_t length = -1) {
  const std::uint64_t claimed = length < 0 ? header.size() : static_cast<std::uint64_t>(length);
  return std::string(reinterpret_cast<const char*>(&claimed), 8) + header + data;
}

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

TEST(Safetensors, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const Tensor wide = Tensor::of<double>(cpu(), {2}, std::vector<double>{1.5, -2.25});
  const Tensor matrix = test::random_tensor({5, 3}, 1);
  const Tensor ids = test::random_integers({2, 2}, 2, -9, 9);
  const Tensor half = test::random_tensor({3}, 3, 1, DType::bf16);
  {
    SafetensorsWriter writer(path, {{"wide", "F64", {2}},
                                    {"a.matrix \"quoted\"", "F32", {5, 3}},
                                    {"none", "F32", {0, 4}},
                                    {"ids", "I32", {2, 2}},
                                    {"half", "BF16", {3}}});
    writer.write(wide);
    writer.write(matrix.row_range(0, 2));
    writer.write(matrix.row_range(2, 3));
    writer.write(ids);
    writer.write(half);
    writer.finish();
  }
  std::uint64_t header = 0;
  const std::string raw = contents(path);
  std::memcpy(&header, raw.data(), 8);
  EXPECT_EQ(header % 8, 0U);
  EXPECT_EQ(raw[8], '{');

  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(reader.entries().size(), 5U);
  EXPECT_EQ(reader.entries()[0].name, "wide");
  EXPECT_TRUE(reader.has("ids"));
  EXPECT_FALSE(reader.has("idz"));
  EXPECT_EQ(reader.entry("none").shape, (std::vector<Index>{0, 4}));
  test::expect_same_bits(reader.read(cpu(), "wide", DType::f64), wide, "f64");
  test::expect_same_bits(reader.read(cpu(), "a.matrix \"quoted\"", DType::f32), matrix, "f32");
  test::expect_same_bits(reader.read_rows(cpu(), "a.matrix \"quoted\"", 1, 3, DType::f32), matrix.row_range(1, 3), "rows");
  test::expect_same_bits(reader.read(cpu(), "ids", DType::i32), ids, "i32");
  test::expect_same_bits(reader.read(cpu(), "half", DType::bf16), half, "bf16");
  EXPECT_EQ(reader.read(cpu(), "none", DType::f32).elements(), 0);
  EXPECT_EQ(reader.read_rows(cpu(), "none", 0, 0, DType::f32).elements(), 0);
  EXPECT_THROW((void)reader.read(cpu(), "absent", DType::f32), InputError);
  EXPECT_THROW((void)reader.read_rows(cpu(), "ids", 1, 2, DType::i32), Error);
}

TEST(Safetensors, ConvertsTypes) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  // Unaligned on purpose: one byte comes first.
  const std::string header = R"({"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("h":{"dtype":"F16","shape":[6],"data_offsets":[1,13]},)"
                             R"("d":{"dtype":"F64","shape":[2],"data_offsets":[13,29]},)"
                             R"("l":{"dtype":"I64","shape":[2],"data_offsets":[29,45]},)"
                             R"("big":{"dtype":"I64","shape":[1],"data_offsets":[45,53]},)"
                             R"("s":{"dtype":"F32","shape":[],"data_offsets":[53,57]}})";
  put(path, file_of(header, "x" + bytes_of<std::uint16_t>({0x3c00, 0xc000, 0x0001, 0x83ff, 0x7c00, 0x7bff}) + bytes_of<double>({0.1, -3}) +
                                bytes_of<std::int64_t>({-7, 1 << 20}) + bytes_of<std::int64_t>({std::int64_t{1} << 40}) +
                                bytes_of<float>({2.5F})));
  const SafetensorsReader reader(path);
  const std::vector<double> half = test::to_f64(reader.read(cpu(), "h", DType::f32));
  EXPECT_EQ(half,
            (std::vector<double>{1, -2, std::ldexp(1, -24), -1023 * std::ldexp(1, -24), std::numeric_limits<double>::infinity(), 65504}));
  EXPECT_EQ(test::to_f64(reader.read(cpu(), "d", DType::f32)), (std::vector<double>{0.1F, -3}));
  EXPECT_EQ(test::to_f64(reader.read(cpu(), "d", DType::bf16))[1], -3);
  EXPECT_EQ(test::to_f64(reader.read(cpu(), "l", DType::i32)), (std::vector<double>{-7, 1 << 20}));
  EXPECT_EQ(test::to_f64(reader.read(cpu(), "l", DType::f32)), (std::vector<double>{-7, 1 << 20}));
  EXPECT_EQ(test::to_f64(reader.read(cpu(), "s", DType::f32)), (std::vector<double>{2.5}));
  EXPECT_EQ(test::to_f64(reader.read_rows(cpu(), "s", 0, 1, DType::f64)), (std::vector<double>{2.5}));
  EXPECT_THROW((void)reader.read(cpu(), "big", DType::i32), InputError);
  EXPECT_THROW((void)reader.read(cpu(), "d", DType::i32), InputError);
  EXPECT_THROW((void)reader.read(cpu(), "byte", DType::f32), InputError);
}

/// Whether every multi-byte character is complete.
bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    for (int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0 ? 1 : 0; more > 0; --more, ++i) {
      if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xc0U) != 0x80U) return false;
    }
  }
  return true;
}

/// The format's limit holds also where the file is as large as it says; its bytes are never read.
TEST(Safetensors, RefusesAHeaderAboveTheFormatsLimit) {
  const TemporaryFolder folder;
  const std::string path = folder / "large.safetensors";
  put(path, file_of("{}", "", 100'000'001));
  std::filesystem::resize_file(path, 8 + 100'000'001);  // sparse
  try {
    const SafetensorsReader reader(path);
    ADD_FAILURE() << "was accepted";
  } catch (const InputError& error) {
    EXPECT_EQ(error.what(), path + " is not a safetensors file: its header claims 100000001 bytes, and the format allows 100000000");
  }
}

TEST(Safetensors, RefusesHostileFiles) {
  struct Case {
    const char* what;
    std::string bytes;
    const char* sentence;
  };
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string eight(8, '\0');
  const std::vector<Case> cases = {
      {"empty", "", "0 bytes"},
      {"short", "1234567", "7 bytes"},
      {"header beyond the file", file_of("{}", "", 3), "claims 3 bytes"},
      {"huge header", file_of("{}", "", std::numeric_limits<std::int64_t>::max()), "claims"},
      {"header of all of 64 bits", std::string(8, '\xff') + "{}", "format allows 100000000"},
      {"no brace", file_of("[1,2]"), "does not begin with"},
      {"no header", file_of(""), "does not begin with"},
      {"not JSON", file_of("{\"a\":"), "not valid JSON"},
      {"trailing text", file_of("{} x"), "not valid JSON"},
      {"a byte order mark", file_of("\xef\xbb\xbf{}"), "does not begin with"},
      {"a NUL behind it", file_of(std::string("{}\0 and what else", 16)), "not valid JSON"},
      {"half a surrogate pair", file_of(R"({"\ud800":1})"), "not valid JSON"},
      {"NaN", file_of(R"({"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}})", "1234"), "not valid JSON"},
      {"not UTF-8", file_of("{\"\x92\":1}"), "not valid JSON in UTF-8"},
      {"deep", file_of("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}"), "too deeply"},
      {"twice",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight),
       "names 'a' twice"},
      {"twice in other letters",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
               eight),
       "names 'a' twice"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "names '__metadata__' twice"},
      {"metadata's key twice", file_of(R"({"__metadata__":{"format":"pt","format":"pt"}})"), "names 'format' twice"},
      {"deep objects",
       [] {
         std::string text;
         for (int i = 0; i < 100000; ++i) text += "{\"a\":";
         return file_of(text);
       }(),
       "too deeply"},
      {"field twice", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight), "names 'dtype' twice"},
      {"no dtype", file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", "1234"), "must have a dtype, a shape and data_offsets"},
      {"entry is a number", file_of(R"({"a":3})"), "must have a dtype, a shape and data_offsets"},
      {"entry is null", file_of(R"({"a":null})"), "must have a dtype, a shape and data_offsets"},
      {"unknown dtype", file_of(one("F31", "[1]", "[0,4]"), "1234"), "unknown dtype"},
      {"dtype is a number", file_of(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", "1234"), "unknown dtype 7"},
      {"negative extent", file_of(one("F32", "[-1]", "[0,4]"), "1234"), "no list of whole numbers"},
      {"fractional extent", file_of(one("F32", "[1.0]", "[0,4]"), "1234"), "no list of whole numbers"},
      {"an extent beyond 64 bits", file_of(one("F32", "[18446744073709551617]", "[0,4]"), "1234"), "no list of whole numbers"},
      {"an extent beyond 63 bits", file_of(one("F32", "[9223372036854775808]", "[0,4]"), "1234"), "no list of whole numbers"},
      {"shape is a number", file_of(one("F32", "1", "[0,4]"), "1234"), "no list of whole numbers"},
      {"negative offset", file_of(one("F32", "[1]", "[-4,0]"), "1234"), "two whole numbers"},
      {"fractional offset", file_of(one("F32", "[1]", "[0,4.0]"), "1234"), "two whole numbers"},
      {"offsets at the end of numbers", file_of(one("F32", "[1]", "[9223372036854775803,9223372036854775807]"), "1234"), "hole before"},
      {"overflow", file_of(one("F32", "[4294967296,4294967296]", "[0,4]"), "1234"), "cannot be counted"},
      {"overflow to zero", file_of(one("F32", "[4611686018427387904,4]", "[0,0]")), "cannot be counted"},
      {"half a byte", file_of(one("F4", "[3]", "[0,2]"), "12"), "cannot be counted"},
      {"size differs", file_of(one("F32", "[2]", "[0,4]"), "1234"), "needs 8 bytes"},
      {"backwards", file_of(one("F32", "[1]", "[8,4]"), eight), "needs 4 bytes"},
      {"three offsets", file_of(one("F32", "[1]", "[0,4,4]"), "1234"), "two whole numbers"},
      {"truncated", file_of(one("F32", "[2]", "[0,8]"), "1234"), "truncated"},
      {"more data", file_of(one("F32", "[1]", "[0,4]"), eight), "belong to no tensor"},
      {"hole at the front", file_of(one("F32", "[1]", "[4,8]"), eight), "hole before tensor 'a'"},
      {"overlap",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", "123456"),
       "tensor 'b'"},
      {"hole in the middle",
       file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})", "123"),
       "hole before tensor 'b'"},
      {"the same bytes twice",
       file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "12"),
       "overlaps the one before it"},
      {"data without a tensor", file_of("{}", "1"), "1 bytes of data that belong to no tensor"},
      {"metadata is a list", file_of(R"({"__metadata__":[]})"), "strings to strings"},
      {"lines in a name", file_of(R"({"a\nb\u001b[2J":3})"), "tensor 'a\\x0ab\\x1b[2J' of"},
      {"a name of a book", file_of("{\"" + std::string(99, 'x') + "\xc3\xa4" + std::string(100000, 'y') + "\":3}"), "tensor 'xxx"},
      {"a dtype of a book", file_of("{\"a\":{\"dtype\":\"" + std::string(100000, 'x') + "\",\"shape\":[],\"data_offsets\":[0,0]}}"),
       "unknown dtype"},
      {"axes without end",
       [&] {
         std::string shape = "[1";
         for (int i = 0; i < 50000; ++i) shape += ",1";
         return file_of(one("F32", shape + "]", "[0,8]"), eight);
       }(),
       "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ...)"},
      {"metadata", file_of(R"({"__metadata__":{"format":1}})"), "strings to strings"},
  };
  const TemporaryFolder folder;
  for (const Case& hostile : cases) {
    const std::string path = folder / "hostile.safetensors";
    put(path, hostile.bytes);
    try {
      const SafetensorsReader reader(path);
      ADD_FAILURE() << hostile.what << " was accepted";
    } catch (const InputError& error) {
      const std::string sentence = error.what();
      EXPECT_NE(sentence.find(hostile.sentence), std::string::npos) << hostile.what << ": " << sentence;
      EXPECT_NE(sentence.find(path), std::string::npos) << hostile.what << ": " << sentence;
      EXPECT_LT(sentence.size(), path.size() + 400) << hostile.what;
      EXPECT_EQ(std::count_if(sentence.begin(), sentence.end(), [](unsigned char c) { return c < 0x20; }), 0) << hostile.what;
      EXPECT_TRUE(is_utf8(sentence)) << hostile.what;
    }
  }
  EXPECT_THROW(SafetensorsReader(folder / "absent"), InputError);
  EXPECT_THROW(SafetensorsReader(folder.path()), InputError);
}

/// What the reference reader (Rust's safetensors 0.8) accepts beyond what it writes.
TEST(Safetensors, AcceptsWhatTheReferenceReaderDoes) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  const std::string entry = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4])";
  for (const std::string& header : {
           "{\"__metadata__\":null," + entry + "}}",
           "{" + entry + R"(,"b":1}})",
           "{" + entry + R"(,"b":{"c":[1,{"d":null}],"c":2}}})",
           "{" + entry + "}}   ",
           "{\"__metadata__\":{}," + entry + "}}",
           R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},)" + entry + "}}",
       }) {
    put(path, file_of(header, "1234"));
    const SafetensorsReader reader(path);
    EXPECT_EQ(reader.entry("a").shape, std::vector<Index>{1}) << header;
    EXPECT_TRUE(reader.metadata().empty()) << header;
  }
}

TEST(Safetensors, SurvivesAnyDamage) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  {
    SafetensorsWriter writer(path, {{"a", "F32", {3, 2}}, {"b", "I32", {4}}});
    writer.write(test::random_tensor({3, 2}, 1));
    writer.write(test::random_integers({4}, 1, 0, 9));
    writer.finish();
  }
  const std::string whole = contents(path);
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const Random random(key_of(seed, 6));
    std::string damaged = whole.substr(0, seed % 5 == 0 ? random.bits(99) % whole.size() : whole.size());
    for (std::uint64_t i = 0; i < seed % 4; ++i) {
      if (!damaged.empty()) damaged[random.bits(2 * i) % damaged.size()] = static_cast<char>(random.bits(2 * i + 1));
    }
    put(path, damaged);
    try {
      const SafetensorsReader reader(path);
      for (const SafetensorsEntry& entry : reader.entries()) {
        if (entry.dtype == "F32" && entry.shape.size() <= 4) (void)reader.read(cpu(), entry.name, DType::f32);
      }
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
  EXPECT_LT(refused, 400);
}

TEST(Safetensors, WriterKeepsItsPromises) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  EXPECT_THROW(SafetensorsWriter(path, {{"a", "F32", {1}}, {"a", "F32", {1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(path, {{"h", "BF16", {1}}, {"w", "F32", {1}}}), Error) << "w would not be aligned";
  EXPECT_THROW(SafetensorsWriter(path, {{"a", "F33", {1}}}), Error);
  {
    SafetensorsWriter writer(path, {{"a", "F32", {2}}});
    EXPECT_THROW(writer.write(test::tensor_of({2}, std::vector<int>{1, 2})), Error) << "another dtype";
    EXPECT_THROW(writer.write(test::tensor_of({3}, std::vector<float>{1, 2, 3})), Error) << "more rows than declared";
    writer.write(test::tensor_of({1}, std::vector<float>{1}));
    EXPECT_THROW(writer.finish(), Error) << "a row is missing";
  }
  EXPECT_FALSE(std::filesystem::exists(path)) << "an unfinished file is left behind";
  EXPECT_THROW(SafetensorsWriter(folder / "no/such/folder.safetensors", {}), Error);
}

TEST(Safetensors, SaysThatTheDiskIsFull) {
  try {
    SafetensorsWriter writer("/dev/full", {{"a", "F32", {1}}});
    writer.write(test::tensor_of({1}, std::vector<float>{1}));
    writer.finish();
    FAIL() << "a write to a full disk went unnoticed";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot write /dev/full: No space left on device");
  }
  EXPECT_TRUE(std::filesystem::exists("/dev/full"));
}

}  // namespace
}  // namespace yard
