#include "launch/proto_settings.h"

#include <gmock/gmock.h>

#include "launch/config_reader.h"

namespace yard {
namespace {

using testing::HasSubstr;

RunConfig::Router block_of(const std::string& fields) {
  return parse_config("model { router { " + fields + " } }", "test").model().router();
}

TEST(ProtoSettings, ReadsEveryTypeByName) {
  RunConfig::Router block = block_of("kind: other normalize: true group_sequences: 3 scale: 2.5 drop: weight");
  const ProtoSettings settings(block, "model.router");
  EXPECT_EQ(settings.get<std::string>("kind"), "other");
  EXPECT_EQ(settings.get<bool>("normalize"), true);
  EXPECT_EQ(settings.get<Index>("group_sequences"), 3);
  EXPECT_EQ(settings.get<double>("scale"), 2.5);
  EXPECT_EQ(settings.number("scale"), 2.5F);
  EXPECT_EQ(settings.get<std::string>("drop"), "weight") << "an enumeration's value by its name";
  EXPECT_EQ(settings.get<double>("jitter"), 0) << "the plain default of a field that is not set";
  EXPECT_FALSE(settings.has("jitter"));
  EXPECT_TRUE(settings.has("scale"));
}

TEST(ProtoSettings, FillsOnlyWhatIsNotSet) {
  RunConfig::Router block = block_of("scale: 2.5 drop: weight");
  ProtoSettings settings(block, "model.router");
  settings.fill("scale", 7.0);
  settings.fill("normalize", true);
  settings.fill("group_top_k", Index{4});
  settings.fill("jitter", 0.25);
  settings.fill("kind", std::string("other"));
  EXPECT_EQ(block.scale(), 2.5);
  EXPECT_TRUE(block.normalize());
  EXPECT_EQ(block.group_top_k(), 4);
  EXPECT_EQ(block.jitter(), 0.25);
  EXPECT_EQ(block.kind(), "other");
  block.clear_drop();
  settings.fill("drop", std::string("weight"));
  EXPECT_EQ(block.drop(), RunConfig::Drop::weight);
}

TEST(ProtoSettings, UnknownFieldsAndOtherTypesAreProgrammingErrors) {
  RunConfig::Router block;
  ProtoSettings settings(block, "model.router");
  const auto sentence = [](const auto& act) {
    try {
      act();
    } catch (const InputError&) {
      return std::string("an input error");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was rejected");
  };
  EXPECT_THAT(sentence([&] { (void)settings.get<double>("scail"); }), HasSubstr("config.proto has no field model.router.scail"));
  EXPECT_THAT(sentence([&] { (void)settings.has("scail"); }), HasSubstr("model.router.scail"));
  EXPECT_THAT(sentence([&] { (void)settings.get<Index>("scale"); }), HasSubstr("model.router.scale is read as another type than it has"));
  EXPECT_THAT(sentence([&] { settings.fill("scale", Index{2}); }), HasSubstr("model.router.scale is filled with a value of another type"));
  EXPECT_THAT(sentence([&] { settings.fill("drop", std::string("luck")); }), HasSubstr("model.router.drop has no value 'luck'"));
}

TEST(Divisors, AreListedInWords) {
  EXPECT_EQ(divisors_text(1), "1");
  EXPECT_EQ(divisors_text(6), "1, 2, 3 or 6");
  EXPECT_EQ(divisors_text(5040), "1, 2, 3, 4, 5, 6, 7 or 8");
  EXPECT_EQ(divisors_text(36), "1, 2, 3, 4, 6, 9, 12 or 18");
  EXPECT_EQ(divisors_text(25), "1, 5 or 25");
  EXPECT_EQ(divisors_text(std::int64_t{1000003} * 1000003), "1, 1000003 or 1000006000009") << "and not after minutes";
}

}  // namespace
}  // namespace yard
