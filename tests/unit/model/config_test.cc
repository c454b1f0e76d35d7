#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>

#include "base/error.h"

namespace polylora {
namespace {

using nlohmann::json;

json small_config() {
  return {{"model_type", "llama"},      {"hidden_size", 64},        {"intermediate_size", 160},
          {"num_hidden_layers", 2},     {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 320},          {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 512},
          {"tie_word_embeddings", true}};
}

ModelConfig parse_with(const char* key, json value) {
  json config = small_config();
  config[key] = std::move(value);
  return parse_model_config(config, "config.json");
}

void expect_refused(const json& config, ErrorCode code, const std::string& part) {
  try {
    parse_model_config(config, "dir/config.json");
    ADD_FAILURE() << "accepted; expected a refusal with " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_THAT(error.what(), testing::HasSubstr("dir/config.json"));
    EXPECT_THAT(error.what(), testing::HasSubstr(part));
  }
}

void expect_refused(const char* key, json value, ErrorCode code, const std::string& part) {
  json config = small_config();
  config[key] = std::move(value);
  expect_refused(config, code, part);
}

TEST(ModelConfig, ReadsALlamaConfig) {
  const ModelConfig config = parse_model_config(small_config(), "config.json");
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.q_size(), 64);
  EXPECT_EQ(config.kv_size(), 32);
  EXPECT_EQ(config.qkv_size(), 128);
  EXPECT_FLOAT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, HeadDimDefaultsWhenAbsentOrNull) {
  EXPECT_EQ(parse_with("head_dim", nullptr).head_dim, 16);
  EXPECT_EQ(parse_with("head_dim", 32).q_size(), 128);
}

TEST(ModelConfig, KeyValueHeadsDefaultToHeads) {
  EXPECT_EQ(parse_with("num_key_value_heads", nullptr).num_kv_heads, 4);
}

TEST(ModelConfig, AttentionBiasGovernsQkvAndO) {
  const ModelConfig config = parse_with("attention_bias", true);
  EXPECT_TRUE(config.qkv_bias && config.o_bias);
  EXPECT_TRUE(parse_with("mlp_bias", true).mlp_bias);
}

TEST(ModelConfig, EosIsOneIdOrAListOrNull) {
  EXPECT_THAT(parse_with("eos_token_id", 2).eos_token_ids, testing::ElementsAre(2));
  EXPECT_THAT(parse_with("eos_token_id", {2, 7}).eos_token_ids, testing::ElementsAre(2, 7));
  EXPECT_TRUE(parse_with("eos_token_id", nullptr).eos_token_ids.empty());
  EXPECT_TRUE(parse_with("eos_token_id", -1).eos_token_ids.empty());
  expect_refused("eos_token_id", "two", ErrorCode::kDataCorrupt, "eos_token_id");
  expect_refused("eos_token_id", json::array({2.5}), ErrorCode::kDataCorrupt, "eos_token_id");
}

TEST(ModelConfig, ReadsOlderAndNewerSpellings) {
  EXPECT_EQ(parse_with("torch_dtype", "float16").dtype, DType::kF16);
  EXPECT_EQ(parse_with("dtype", "float32").dtype, DType::kF32);

  json older = small_config(), newer = small_config();
  older["rope_theta"] = 5e5;
  older["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  newer["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}};
  for (const json& config : {older, newer}) {
    const ModelConfig parsed = parse_model_config(config, "config.json");
    EXPECT_EQ(parsed.rope_theta, 5e5);
    EXPECT_EQ(parsed.rope_scaling.kind, RopeScaling::Kind::kLinear);
    EXPECT_EQ(parsed.rope_scaling.factor, 4.0);
  }
}

TEST(ModelConfig, RefusesWhatIsNotImplementedByName) {
  expect_refused("model_type", "mamba", ErrorCode::kUnsupported, "mamba");
  expect_refused("model_type", "mamba", ErrorCode::kUnsupported, "llama");
  expect_refused("hidden_act", "gelu", ErrorCode::kUnsupported, "gelu");
  expect_refused("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}, ErrorCode::kUnsupported, "yarn");
}

TEST(ModelConfig, RefusesSenselessValuesByKey) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const json& value : {json(0), json(-3), json(1.5), json("64"), json(uint64_t{1} << 63)})
      expect_refused(key, value, ErrorCode::kDataCorrupt, key);
  }
  for (const json& value : {json(0), json(-1.0), json(1e-60), json(1e60), json("1e-5")})
    expect_refused("rms_norm_eps", value, ErrorCode::kDataCorrupt, "rms_norm_eps");
  expect_refused("tie_word_embeddings", 1, ErrorCode::kDataCorrupt, "tie_word_embeddings");
  expect_refused("num_key_value_heads", 3, ErrorCode::kDataCorrupt, "num_key_value_heads");
  expect_refused("head_dim", 15, ErrorCode::kDataCorrupt, "head_dim");
  expect_refused("num_attention_heads", 6, ErrorCode::kDataCorrupt, "hidden_size 64 is not a multiple");
  expect_refused("num_hidden_layers", 1000000, ErrorCode::kDataCorrupt, "num_hidden_layers");
  expect_refused("head_dim", 1 << 28, ErrorCode::kDataCorrupt, "too large");
  expect_refused("rope_scaling", "linear", ErrorCode::kDataCorrupt, "rope_scaling");
  expect_refused("rope_scaling", {{"type", "linear"}}, ErrorCode::kDataCorrupt, "factor");
  expect_refused(json::array(), ErrorCode::kDataCorrupt, "not a JSON object");
}

TEST(ModelConfig, NamesAMissingKey) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size"}) {
    json config = small_config();
    config.erase(key);
    expect_refused(config, ErrorCode::kDataCorrupt, key);
  }
}

TEST(RopeTable, HoldsCosinesThenSines) {
  const ModelConfig config = parse_model_config(small_config(), "config.json");
  const auto table = make_rope_table(config, 10);
  ASSERT_EQ(table.size(), 10u * 16);
  for (size_t i = 0; i < 8; ++i) {
    const double angle = 9.0 / std::pow(10000.0, static_cast<double>(i) / 8.0);
    EXPECT_NEAR(table[9 * 16 + i], std::cos(angle), 2e-6);
    EXPECT_NEAR(table[9 * 16 + 8 + i], std::sin(angle), 2e-6);
  }
}

TEST(RopeTable, LinearScalingDividesEveryFrequency) {
  const auto plain = rope_frequencies(parse_model_config(small_config(), "config.json"));
  const auto scaled = rope_frequencies(parse_with("rope_scaling", {{"type", "linear"}, {"factor", 4.0}}));
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(scaled[i], plain[i] / 4);
}

TEST(RopeTable, Llama3KeepsFastFrequenciesDividesSlowOnesAndBlendsBetween) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 256}};
  const auto plain = rope_frequencies(parse_model_config(small_config(), "config.json"));
  const auto scaled = rope_frequencies(parse_with("rope_scaling", scaling));
  int kept = 0, divided = 0, blended = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    const double ratio = plain[i] / scaled[i];
    if (wavelength < 64) {
      EXPECT_FLOAT_EQ(ratio, 1.0);
      ++kept;
    } else if (wavelength > 256) {
      EXPECT_FLOAT_EQ(ratio, 8.0);
      ++divided;
    } else {
      EXPECT_GT(ratio, 1.0);
      EXPECT_LT(ratio, 8.0);
      ++blended;
    }
  }
  EXPECT_TRUE(kept > 0 && divided > 0 && blended > 0);
}

}  // namespace
}  // namespace polylora
