#include "model/architectures.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"

namespace polylora {
namespace {

using nlohmann::json;

json config_of(const std::string& model_type) {
  return {{"model_type", model_type}, {"hidden_size", 64},        {"intermediate_size", 160},
          {"num_hidden_layers", 6},   {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 320},        {"head_dim", 16},           {"max_position_embeddings", 128}};
}

ModelConfig parse(const json& config) {
  return parse_model_config(config, "config.json");
}

void expect_refused(const json& config, ErrorCode code, const std::string& part) {
  try {
    parse(config);
    ADD_FAILURE() << "accepted; expected a refusal with " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Architectures, WindowsFollowTheArchitecture) {
  using Windows = std::vector<int>;
  json mistral = config_of("mistral"), qwen = config_of("qwen2"), gemma2 = config_of("gemma2"),
       gemma3 = config_of("gemma3_text");
  EXPECT_EQ(parse(mistral).windows, Windows(6, 4096));
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(parse(mistral).windows, Windows());
  EXPECT_EQ(parse(config_of("phi3")).windows, Windows());
  EXPECT_EQ(parse(config_of("llama")).windows, Windows());

  qwen["sliding_window"] = 9;
  qwen["max_window_layers"] = 4;
  EXPECT_EQ(parse(qwen).windows, Windows());
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(parse(qwen).windows, Windows({0, 0, 0, 0, 9, 9}));

  gemma2["sliding_window"] = gemma3["sliding_window"] = 7;
  EXPECT_EQ(parse(gemma2).windows, Windows({7, 0, 7, 0, 7, 0}));
  gemma3["sliding_window_pattern"] = 3;
  EXPECT_EQ(parse(gemma3).windows, Windows({7, 7, 0, 7, 7, 0}));
  gemma3["layer_types"] = {"full_attention",    "sliding_attention", "full_attention",
                           "sliding_attention", "full_attention",    "full_attention"};
  EXPECT_EQ(parse(gemma3).windows, Windows({0, 7, 0, 7, 0, 0}));
  gemma3["layer_types"] = {"full_attention"};
  expect_refused(gemma3, ErrorCode::kDataCorrupt, "layer_types");
  gemma3["layer_types"] = {"a", "b", "c", "d", "e", "f"};
  expect_refused(gemma3, ErrorCode::kUnsupported, "full_attention, sliding_attention");
}

TEST(Architectures, GemmaHasItsDefaults) {
  const ModelConfig gemma2 = parse(config_of("gemma2"));
  EXPECT_EQ(gemma2.attention_softcap, 50.0f);
  EXPECT_EQ(gemma2.final_logit_softcap, 30.0f);
  EXPECT_EQ(gemma2.attention_scale(), 1.0f / 16.0f);
  EXPECT_EQ(gemma2.embedding_scale, 8.0f);
  EXPECT_EQ(gemma2.norm_offset, 1.0f);
  EXPECT_TRUE(gemma2.tie_word_embeddings && gemma2.output_norms && !gemma2.qk_norm);
  json uncapped = config_of("gemma2");
  uncapped["attn_logit_softcapping"] = uncapped["final_logit_softcapping"] = nullptr;
  EXPECT_EQ(parse(uncapped).attention_softcap, 0.0f);
  EXPECT_EQ(parse(uncapped).final_logit_softcap, 0.0f);
}

/// transformers 5 has one set of rope parameters for each kind of layer.
TEST(Architectures, Gemma3ReadsBothGenerationsOfRopeKeys) {
  json older = config_of("gemma3_text"), newer = older;
  older["rope_theta"] = 5e5;
  older["rope_local_base_freq"] = 2e4;
  older["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  newer["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5e5}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}};
  for (const json& config : {older, newer}) {
    const ModelConfig parsed = parse(config);
    EXPECT_EQ(parsed.rope_theta, 5e5);
    EXPECT_EQ(parsed.local_rope_theta, 2e4);
    EXPECT_EQ(parsed.rope_scaling.factor, 8.0);
    EXPECT_TRUE(parsed.has_local_rope(0) && !parsed.has_local_rope(5));
    json plain = config_of("llama");
    plain["rope_theta"] = 2e4;
    EXPECT_EQ(make_rope_table(parsed, 9, /*local=*/true), make_rope_table(parse(plain), 9));
  }
}

TEST(Architectures, LongropeChoosesByTheServedContext) {
  json config = config_of("phi3"), plain = config;
  config["original_max_position_embeddings"] = 32;
  config["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", std::vector<double>(8, 1.0)},
                            {"long_factor", std::vector<double>(8, 4.0)}};
  const ModelConfig parsed = parse(config);
  const auto unscaled = rope_frequencies(parse(plain));
  EXPECT_EQ(rope_frequencies(parsed, 32), unscaled);
  for (size_t i = 0; i < unscaled.size(); ++i)
    EXPECT_FLOAT_EQ(rope_frequencies(parsed, 33)[i], unscaled[i] / 4.0f);
  const auto factor = static_cast<float>(std::sqrt(1.0 + std::log(4.0) / std::log(32.0)));
  EXPECT_FLOAT_EQ(make_rope_table(parsed, 32).front(), factor);  // cos 0

  config["rope_scaling"]["short_factor"] = {1.0};
  expect_refused(config, ErrorCode::kDataCorrupt, "short_factor");
  config["rope_scaling"]["short_factor"] = std::vector<double>(8, -1.0);
  expect_refused(config, ErrorCode::kDataCorrupt, "short_factor");
}

TEST(Architectures, RefusesRotaryEmbeddingOverPartOfAHead) {
  json config = config_of("phi3");
  config["partial_rotary_factor"] = 0.75;
  expect_refused(config, ErrorCode::kUnsupported, "partial_rotary_factor");
}

TEST(Architectures, DocsHoldTheTableOfTheRows) {
  std::ifstream file(std::string(POLYLORA_TEST_DATA) + "/../../docs/models.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_NE(text.find(architecture_table()), std::string::npos) << "docs/models.md must hold this table:\n"
                                                                << architecture_table();
}

}  // namespace
}  // namespace polylora
