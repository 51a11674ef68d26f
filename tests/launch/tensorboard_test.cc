#include "launch/tensorboard.h"

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "tests/support/support.h"

using namespace yard;

namespace {
/// CRC-32C bit by bit, and its mask, written from the definition.
std::uint32_t slow_masked_crc(const std::string& bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
  }
  crc = ~crc;
  return (((crc >> 15) | (crc << 17)) + 0xa282ead8U) & 0xffffffffU;
}

std::uint64_t little_endian(const std::string& bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// The data of every record of an event file; its checksums are checked.
std::vector<std::string> records_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::string length = bytes.substr(at, 8);
    const std::size_t size = little_endian(length);
    EXPECT_EQ(little_endian(bytes.substr(at + 8, 4)), slow_masked_crc(length));
    records.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(records.back().size(), size);
    EXPECT_EQ(little_endian(bytes.substr(at + 12 + size, 4)), slow_masked_crc(records.back()));
    at += 16 + size;
  }
  return records;
}

/// The fields of a protobuf message, by number: raw bytes of fixed and length-delimited ones, decimal text of varints.
std::multimap<int, std::string> fields_of(const std::string& message) {
  std::multimap<int, std::string> fields;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const std::uint64_t key = varint();
    std::string value;
    if ((key & 7U) == 0) {
      value = std::to_string(varint());
    } else {
      const std::size_t size = (key & 7U) == 1 ? 8 : (key & 7U) == 5 ? 4 : varint();
      value = message.substr(at, size);
      at += size;
    }
    fields.emplace(static_cast<int>(key >> 3), value);
  }
  return fields;
}

template <class T>
T number_of(const std::string& bytes) {
  EXPECT_EQ(bytes.size(), sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

TEST(TensorBoard, ChecksumIsCastagnolis) {
  // CRC-32C of "123456789" is 0xE3069283.
  const std::uint32_t crc = 0xe3069283U;
  EXPECT_EQ(masked_crc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xa282ead8U);
  EXPECT_EQ(slow_masked_crc("123456789"), masked_crc32c("123456789"));
}

TEST(TensorBoard, EventsReadBack) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder.path());
  writer.write(7, {{"lm loss", 2.5}, {"learning rate", 0}});
  writer.write(3000000000, {{"lm loss", -1}});
  EXPECT_THAT(std::filesystem::path(writer.path()).filename().string(),
              testing::MatchesRegex("events.out.tfevents.[0-9]+\\..+\\.[0-9]+\\.[0-9]+"));
  const auto records = records_of(writer.path());
  ASSERT_EQ(records.size(), 3U);
  const auto first = fields_of(records[0]);
  EXPECT_GT(number_of<double>(first.find(1)->second), 1.7e9);
  EXPECT_EQ(first.find(3)->second, "brain.Event:2");

  const auto second = fields_of(records[1]);
  EXPECT_EQ(second.find(2)->second, "7");
  const auto values = fields_of(second.find(5)->second);
  ASSERT_EQ(values.count(1), 2U);
  auto value = values.find(1);
  EXPECT_EQ(fields_of(value->second).find(1)->second, "lm loss");
  EXPECT_EQ(number_of<float>(fields_of(value->second).find(2)->second), 2.5F);
  ++value;
  EXPECT_EQ(fields_of(value->second).find(1)->second, "learning rate");
  ASSERT_EQ(fields_of(value->second).count(2), 1U) << "a zero must be written too";
  EXPECT_EQ(number_of<float>(fields_of(value->second).find(2)->second), 0.0F);

  const auto third = fields_of(records[2]);
  EXPECT_EQ(third.find(2)->second, "3000000000");
}

TEST(TensorBoard, ASessionStartsAtItsFirstStep) {
  const test::TemporaryFolder folder;
  TensorBoardWriter writer(folder.path());
  writer.start_session(301);
  writer.write(301, {{"lm loss", 2}});
  const auto records = records_of(writer.path());
  ASSERT_EQ(records.size(), 3U);
  const auto start = fields_of(records[1]);
  EXPECT_GT(number_of<double>(start.find(1)->second), 1.7e9);
  EXPECT_EQ(start.find(2)->second, "301");
  ASSERT_EQ(start.count(7), 1U) << "Event.session_log";
  EXPECT_EQ(fields_of(start.find(7)->second).find(1)->second, "1") << "SessionLog.START";
  EXPECT_EQ(fields_of(records[2]).find(2)->second, "301");
}

TEST(TensorBoard, TwoWritersUseTwoFiles) {
  const test::TemporaryFolder folder;
  const TensorBoardWriter one(folder.path());
  const TensorBoardWriter two(folder.path());
  EXPECT_NE(one.path(), two.path());
}

TEST(TensorBoard, ScalarsHaveTheNamesThatPeopleLookFor) {
  StepMetrics metrics;
  metrics.set_loss(1.5);
  metrics.set_balance_loss(1.25);
  metrics.set_step_seconds(0.5);
  const auto value = [&](const std::string& tag) {
    for (const auto& [name, number] : scalars_of(metrics)) {
      if (name == tag) return number;
    }
    return -1.0;
  };
  EXPECT_EQ(value("lm loss"), 1.5);
  EXPECT_EQ(value("iteration-time"), 0.5);
  EXPECT_EQ(value("load_balancing_loss"), -1) << "a dense model has none";
  for (const char* tag : {"grad norm", "learning rate", "tokens/s", "mem-allocated-bytes"}) EXPECT_EQ(value(tag), 0) << tag;
  EXPECT_EQ(value("validation loss"), -1);
  metrics.set_validation_loss(3);
  metrics.set_bits_per_byte(2);
  EXPECT_EQ(value("validation loss"), 3);
  EXPECT_EQ(value("validation bits per byte"), 2);
  for (const double each : {1.5, 4.0, 2.0}) metrics.add_layers()->set_max_over_mean(each);
  EXPECT_EQ(value("load_balancing_loss"), 1.25);
  EXPECT_EQ(value("z_loss"), -1) << "no router reports one";
  EXPECT_EQ(value("dropped fraction"), -1) << "no capacity";
  metrics.set_z_loss(0);
  metrics.set_dropped_fraction(0.125);
  (*metrics.mutable_losses())["importance"] = 0.5;
  (*metrics.mutable_scalars())["experts_per_token"] = 1.75;
  metrics.mutable_layers(1)->set_layer(7);
  for (const double each : {0.5, -0.25, 0.125}) (*metrics.mutable_layers(1)->mutable_per_expert())["selection_bias"].add_values(each);
  EXPECT_EQ(value("z_loss"), 0);
  EXPECT_EQ(value("dropped fraction"), 0.125);
  EXPECT_EQ(value("losses/importance"), 0.5);
  EXPECT_EQ(value("routing/experts_per_token"), 1.75);
  EXPECT_EQ(value("routing/selection_bias minimum, layer 7"), -0.25);
  EXPECT_EQ(value("routing/selection_bias maximum, layer 7"), 0.5);
  EXPECT_EQ(value("experts/max over mean, worst layer"), 4);
}
}  // namespace
