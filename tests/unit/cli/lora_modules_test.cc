#include "cli/lora_modules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

class LoraModules : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(root_);
    for (const char* name : {"beta", "alpha"}) {
      fs::create_directories(root_ / name);
      std::ofstream(root_ / name / "adapter_config.json") << "{}";
    }
    fs::create_directories(root_ / "not-an-adapter");
  }
  void TearDown() override { fs::remove_all(root_); }

  static std::string refusal(const std::string& item) {
    try {
      parse_lora_modules({item});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "accepted";
  }

  const fs::path root_ = fs::path(testing::TempDir()) / "polylora_lora_modules_test";
};

TEST_F(LoraModules, NameAndPath) {
  const auto modules = parse_lora_modules({"a=/p/q=r", "", "b=/x"});
  ASSERT_EQ(modules.size(), 2U);
  EXPECT_EQ(modules[0].name, "a");
  EXPECT_EQ(modules[0].path, "/p/q=r");
  EXPECT_EQ(modules[1].name, "b");
}

TEST_F(LoraModules, JsonObjectAndList) {
  const auto modules = parse_lora_modules(
      {R"({"name": "a", "path": "/a", "base_model_name": "base"})",
       R"([{"name": "b", "path": "/b"}, {"name": "c", "path": "/c", "base_model_name": null}])"});
  ASSERT_EQ(modules.size(), 3U);
  EXPECT_EQ(modules[0].base_model_name, "base");
  EXPECT_EQ(modules[2].name, "c");
  EXPECT_EQ(modules[2].base_model_name, "");
}

TEST_F(LoraModules, FolderOfAdapters) {
  const auto modules = parse_lora_modules({root_.string()});
  ASSERT_EQ(modules.size(), 2U);
  EXPECT_EQ(modules[0].name, "alpha");
  EXPECT_EQ(modules[1].path, root_ / "beta");
}

TEST_F(LoraModules, Refusals) {
  EXPECT_THAT(refusal("nonsense"), testing::StartsWith("Invalid JSON format for --lora-modules: nonsense"));
  EXPECT_THAT(refusal("a=/p,b=/q"), testing::StartsWith("Invalid JSON format for --lora-modules: "));
  EXPECT_THAT(refusal(R"({"name": "a"})"), testing::StartsWith("Invalid fields for --lora-modules: "));
  EXPECT_THAT(refusal(R"({"name": "a", "path": "/a", "x": 1})"), testing::HasSubstr("'x'"));
  EXPECT_THAT(refusal(R"({"name": 1, "path": "/a"})"), testing::HasSubstr("must be a string"));
  EXPECT_THAT(refusal(R"(["a"])"), testing::StartsWith("Invalid fields"));
  EXPECT_THAT(refusal("=/p"), testing::HasSubstr("name"));
  EXPECT_THAT(refusal("a="), testing::HasSubstr("path"));
  EXPECT_THAT(refusal((root_ / "alpha").string()), testing::HasSubstr("NAME="));
  std::ofstream(root_ / "a.gguf") << "GGUF";
  EXPECT_THAT(refusal((root_ / "a.gguf").string()), testing::HasSubstr("NAME="));
  EXPECT_THAT(refusal((root_ / "not-an-adapter").string()), testing::HasSubstr("adapter_config.json"));
}

}  // namespace
}  // namespace polylora
