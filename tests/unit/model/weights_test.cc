#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "model/small_config.h"

namespace polylora {
namespace {

void expect_tiles(const ModelConfig& config) {
  std::vector<int64_t> next(site_count(config));
  for (const LinearModule& module : linear_modules(config)) {
    int64_t& begin = next[static_cast<size_t>(module.site)];
    EXPECT_EQ(module.n_begin, begin) << module.name;
    EXPECT_TRUE(module.path.ends_with(module.name));
    begin += module.n_count;
  }
  for (const Site site : sites(config))
    EXPECT_EQ(next[static_cast<size_t>(site)], site_rows(config, site)) << static_cast<int>(site);
}

TEST(LinearModules, TileTheirFusedLinears) {
  expect_tiles(small_config());
  expect_tiles(small_mixture());
}

TEST(LinearModules, OfAMixtureAreARouterAndEveryExpert) {
  const ModelConfig config = small_mixture();
  const auto modules = linear_modules(config);
  ASSERT_EQ(modules.size(), 4u + 1 + 3 * 5);
  EXPECT_EQ(module_path(1, modules[4]), "model.layers.1.mlp.gate");
  EXPECT_EQ(module_path(1, modules.back()), "model.layers.1.mlp.experts.4.down_proj");
  EXPECT_EQ(modules.back().site, down_of(4));
  EXPECT_EQ(std::count_if(modules.begin(), modules.end(), is_linear_layer), 4);
  EXPECT_THAT(module_names(config), testing::ElementsAre("q_proj", "k_proj", "v_proj", "o_proj", "gate",
                                                         "gate_proj", "up_proj", "down_proj"));
}

TEST(LinearModules, HaveTheNamesOfPeft) {
  const auto modules = linear_modules(small_config());
  EXPECT_EQ(module_path(3, modules[0]), "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(module_path(0, modules[6]), "model.layers.0.mlp.down_proj");
}

std::vector<TensorSpec> list_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  for_each_tensor(config, [&](const TensorSpec& spec) { specs.push_back(spec); });
  return specs;
}

TEST(ForEachTensor, NamesEveryTensorOnce) {
  const auto specs = list_tensors(small_config());
  std::set<std::string> names;
  for (const TensorSpec& spec : specs) EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
  EXPECT_EQ(specs.size(), 1u + 2 * 9 + 1 + 1);
  EXPECT_TRUE(names.contains("lm_head.weight"));
  EXPECT_TRUE(names.contains("model.layers.1.post_attention_layernorm.weight"));
}

TEST(LinearModules, TileTheirFusedLinearsWhenStoredFusedToo) {
  ModelConfig config = small_config();
  config.fused_projections = true;
  const auto modules = linear_modules(config);
  ASSERT_EQ(modules.size(), 4u);
  EXPECT_EQ(module_path(1, modules[0]), "model.layers.1.self_attn.qkv_proj");
  for (const LinearModule& module : modules) {
    EXPECT_EQ(module.n_begin, 0);
    EXPECT_EQ(module.n_count, site_rows(config, module.site));
  }
}

TEST(ForEachTensor, NamesTheNormsOfAnArchitecture) {
  ModelConfig config = small_config();
  config.qk_norm = config.output_norms = true;
  int heads = 0, outputs = 0;
  for (const TensorSpec& spec : list_tensors(config)) {
    if (!is_norm(spec)) continue;
    const bool of_head = spec.name.ends_with("q_norm.weight") || spec.name.ends_with("k_norm.weight");
    EXPECT_EQ(spec.rows, of_head ? config.head_dim : config.hidden_size) << spec.name;
    heads += of_head ? 1 : 0;
    outputs += spec.name.find("feedforward") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(heads, 2 * config.num_layers);
  EXPECT_EQ(outputs, 2 * config.num_layers);
}

TEST(ForEachTensor, FollowsTheFlags) {
  ModelConfig config = small_config();
  config.tie_word_embeddings = config.qkv_bias = config.o_bias = config.mlp_bias = true;
  const auto specs = list_tensors(config);
  EXPECT_EQ(specs.size(), 1u + 2 * (2 + 14) + 1);
  EXPECT_EQ(specs.back().name, "model.norm.weight");
}

TEST(ForEachTensor, GivesShapesAsCheckpointsHaveThem) {
  for (const TensorSpec& spec : list_tensors(small_config())) {
    if (spec.name == "model.layers.0.self_attn.q_proj.weight") {
      EXPECT_EQ(spec.rows, 96);
      EXPECT_EQ(spec.cols, 64);
    }
    if (spec.name == "model.norm.weight") {
      EXPECT_EQ(spec.rows, 64);
      EXPECT_EQ(spec.cols, 0);
    }
  }
}

}  // namespace
}  // namespace polylora
