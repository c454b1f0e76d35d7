// Names of repositories and files: what is taken for one, what is chosen, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "hub/hub_cache.h"
#include "hub/hub_files.h"
#include "hub/hub_settings.h"
#include "hub/web.h"

namespace polylora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;
using Names = std::vector<std::string>;

TEST(HubId, HasARepositoryARevisionAndAFile) {
  const auto plain = parse_hub_id("HuggingFaceTB/SmolLM2-135M");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repo, "HuggingFaceTB/SmolLM2-135M");
  EXPECT_EQ(plain->revision, "main");
  const auto full = parse_hub_id("org/name@refs/pr/1:model.Q4_K_M.gguf");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->repo, "org/name");
  EXPECT_EQ(full->revision, "refs/pr/1");
  EXPECT_EQ(full->file, "model.Q4_K_M.gguf");
  EXPECT_EQ(parse_hub_id("org/name", "v1")->revision, "v1");
  EXPECT_EQ(parse_hub_id("org/name@v2", "v1")->revision, "v2");
}

TEST(HubId, IsNotWhatCanOnlyBeAPath) {
  for (const char* text :
       {"", "name", "/org/name", "./name", "../name", "~/name", "a/b/c", "org/", "org/..", "org/na me",
        "org/name@", "org/name@../x", "org/name@a//b", "org/name:", "org/name:../x", "org/name:a/b",
        "org--x/name", "org/.hidden", "https://huggingface.co/org/name"}) {
    EXPECT_FALSE(parse_hub_id(text)) << text;
  }
  EXPECT_THROW(parse_hub_id("org/name", "../x"), Error);
}

TEST(HubFiles, OfAModelAreConfigurationTextAndSafetensors) {
  const HubId id{.repo = "org/name"};
  EXPECT_THAT(
      choose_model_files(id, {"README.md", "config.json", "model.safetensors", "model.gguf", "tokenizer.json",
                              "original/tokenizer.model", "tokenizer_config.json", "pytorch_model.bin"}),
      UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"));
  EXPECT_THAT(
      choose_model_files(id, {"config.json", "model.safetensors.index.json",
                              "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}),
      testing::SizeIs(4));
}

std::string refusal(const HubId& id, const Names& files) {
  try {
    choose_model_files(id, files);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(HubFiles, RefusalsSayWhatThereIs) {
  const HubId id{.repo = "org/name"};
  EXPECT_THAT(refusal(id, {"config.json", "pytorch_model.bin"}), HasSubstr("pickled"));
  EXPECT_THAT(refusal(id, {"adapter_config.json"}), HasSubstr("is an adapter"));
  EXPECT_THAT(refusal(id, {"a.gguf"}), HasSubstr("org/name:FILE, of a.gguf"));
  EXPECT_THAT(refusal(id, {"model.safetensors"}), HasSubstr("no config.json"));
  EXPECT_THAT(refusal(id, {}), HasSubstr("no model.safetensors"));
}

TEST(HubFiles, AGgufFileIsNamedOrOfAType) {
  const Names files = {"m.Q4_K_M.gguf", "m-q8_0.gguf", "m.Q4_K_S.gguf", "m.IQ4_NL.gguf", "sub/m.Q5_0.gguf"};
  const auto choose = [&](const std::string& file) {
    return choose_model_files({.repo = "org/name", .file = file}, files);
  };
  EXPECT_THAT(choose("m.Q4_K_M.gguf"), ElementsAre("m.Q4_K_M.gguf"));
  EXPECT_THAT(choose("Q8_0"), ElementsAre("m-q8_0.gguf"));
  EXPECT_THAT(refusal({.repo = "org/name", .file = "Q4_K"}, files), HasSubstr("no GGUF file for ':Q4_K'"));
  EXPECT_THAT(refusal({.repo = "org/name", .file = "Q5_0"}, files), HasSubstr("no GGUF file"));
  EXPECT_THAT(refusal({.repo = "org/name", .file = "m"}, files), HasSubstr("fits several"));
}

TEST(Web, OriginsAreComparedWithTheirPorts) {
  EXPECT_EQ(origin_of("https://Host.example/a?b"), origin_of("https://host.example:443/c"));
  EXPECT_NE(origin_of("https://host.example"), origin_of("http://host.example"));
  EXPECT_NE(origin_of("https://host.example"), origin_of("https://host.example:8443"));
  EXPECT_THROW(origin_of("file:///etc/passwd"), Error);
  EXPECT_THROW(origin_of("host"), Error);
}

TEST(Web, LocationsMayBeRelative) {
  EXPECT_EQ(resolve_location("https://h/a/b", "/c"), "https://h/c");
  EXPECT_EQ(resolve_location("https://h/a/b", "http://other/c"), "http://other/c");
  EXPECT_EQ(encode_path("a b/c%"), "a%20b/c%25");
  EXPECT_EQ(encode_segment("refs/pr/1"), "refs%2Fpr%2F1");
}

TEST(HubCache, CommitsAreFortyHexadecimalDigits) {
  EXPECT_TRUE(is_commit("0123456789abcdef0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit("main"));
  EXPECT_FALSE(is_commit("../3456789abcdef0123456789abcdef01234567"));
}

}  // namespace
}  // namespace polylora
