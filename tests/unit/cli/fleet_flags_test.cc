#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "cli/fleet.h"
#include "cli/serve_command_line.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ServeFlags parse(const std::string& yaml) {
  const testing::ConfigFile file(yaml);
  return testing::parse_serve({"--config", file.path()});
}

std::string refusal(const std::string& yaml) {
  const testing::ConfigFile file(yaml);
  return testing::serve_refusal({"--config", file.path()});
}

TEST(FleetFlags, WhatABaseDoesNotSayIsAsForAll) {
  const testing::ConfigFile file(R"(
max-num-seqs: 7
enable-prefix-caching: no
kv-cache-memory: 1G
port: 1234
bases:
  - model: a
    served-model-name: [1.10, alias]
    dtype: float32
  - model: b
    max_num_seqs: 9
    enable-prefix-caching: true
    kv-cache-memory: 64M
)");
  const ServeFlags flags = testing::parse_serve({"--max-num-batched-tokens", "33", "--config", file.path()});
  EXPECT_EQ(flags.server.port, 1234);
  ASSERT_EQ(flags.served.size(), 2u);
  const BaseFlags &a = flags.served[0], &b = flags.served[1];
  EXPECT_THAT(a.served_model_name, ElementsAre("1.10", "alias"));
  EXPECT_THAT(b.served_model_name, ElementsAre("b"));
  EXPECT_EQ(a.engine.max_num_seqs, 7);
  EXPECT_EQ(b.engine.max_num_seqs, 9);
  EXPECT_EQ(a.engine.max_num_batched_tokens, 33);
  EXPECT_FALSE(a.engine.enable_prefix_caching);
  EXPECT_TRUE(b.engine.enable_prefix_caching);
  EXPECT_EQ(a.adapter_dtype, DType::kF32);
  EXPECT_EQ(b.adapter_dtype, DType::kBf16);
  EXPECT_EQ(flags.engine.kv_cache_bytes, size_t{1} << 30) << "of all bases";
  EXPECT_EQ(a.engine.kv_cache_bytes, 0u) << "open";
  EXPECT_EQ(b.engine.kv_cache_bytes, size_t{64} << 20);
}

TEST(FleetFlags, TheExampleIsOne) {
  const ServeFlags flags =
      testing::parse_serve({"--config", POLYLORA_TEST_DATA "/../../examples/fleet.yaml"});
  EXPECT_THAT(base_names(flags), ElementsAre("small", "exact"));
  EXPECT_EQ(fleet_modules(flags).size(), 3u);
}

TEST(FleetFlags, OneModelIsAFleetOfOne) {
  const ServeFlags flags = parse("model: m\nenable-lora: true\nlora-modules: [x=/x]\n");
  ASSERT_EQ(flags.served.size(), 1u);
  EXPECT_THAT(base_names(flags), ElementsAre("m"));
  const auto modules = fleet_modules(flags);
  ASSERT_EQ(modules.size(), 1u);
  EXPECT_EQ(modules[0].base_model_name, "");
}

TEST(FleetFlags, AdaptersBelongToTheBaseThatListsThem) {
  const ServeFlags flags = parse(R"(
enable-lora: true
lora-modules: [any=/any, {name: told, path: /told, base_model_name: two}]
lora-watch: [w=/w]
bases:
  - {model: one, lora-modules: [mine=/mine], lora-watch: [o=/o]}
  - {model: m2, served-model-name: [two, zwei], lora-modules: [{name: aka, path: /aka, base_model_name: zwei}]}
)");
  std::vector<std::pair<std::string, std::string>> found;
  for (const LoraModule& module : fleet_modules(flags))
    found.emplace_back(module.name, module.base_model_name);
  EXPECT_THAT(found, ElementsAre(std::pair("any", ""), std::pair("told", "two"), std::pair("mine", "one"),
                                 std::pair("aka", "zwei")));
  const auto watched = fleet_watched(flags);
  ASSERT_EQ(watched.size(), 2u);
  EXPECT_EQ(watched[0].base_model_name, "");
  EXPECT_EQ(watched[1].base_model_name, "one");
}

TEST(FleetFlags, RefusesWhatCannotBeMeant) {
  EXPECT_THAT(refusal("bases: [{model: a, threads: 2}]"),
              HasSubstr("bases[0]: --threads is not supported: it is"));
  EXPECT_THAT(refusal("bases: [{model: a, bases: [{model: b}]}]"), HasSubstr("--bases is not supported"));
  EXPECT_THAT(refusal("bases: [{model: a}, {model: a}]"), HasSubstr("two of the bases are called 'a'"));
  EXPECT_THAT(refusal("bases: [{model: a, max-model-len: x}]"), HasSubstr("bases[0]: --max-model-len"));
  EXPECT_THAT(refusal("model: a\nbases: [{model: b}]"), HasSubstr("not both: move 'a' there"));
  EXPECT_THAT(refusal("bases: [{model: a, lora-modules: [x=/x]}]"), HasSubstr("LoRA is not enabled"));
  EXPECT_THAT(refusal("bases: [a]"), HasSubstr("bases[0]: expected lines"));
  EXPECT_NE(refusal("bases: []"), "accepted");
  const ServeFlags twice =
      parse("enable-lora: true\nlora-watch: [x=/a]\nbases: [{model: m, lora-watch: [x=/b]}]");
  EXPECT_THROW(fleet_watched(twice), Error) << "one name for two folders";
}

}  // namespace
}  // namespace polylora
