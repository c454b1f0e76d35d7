#include "io/adapter_writer.h"

#include <numeric>

#include "io/adapter_file.h"
#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::json;
namespace fs = std::filesystem;

const std::string kQ = "base_model.model.model.layers.0.self_attn.q_proj";
const std::string kDown = "base_model.model.model.layers.1.mlp.down_proj";

ModelConfig small_model() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 64;
  return config;
}

/// Counts up from `first`, so that no two values of a test are equal.
std::vector<float> counting(size_t count, float first) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

class AdapterWriter : public testing::Test {
 protected:
  AdapterWriter() {
    adapter_.base_model_name_or_path = "some/base";
    adapter_.base_fingerprint = "0123456789abcdef";
    adapter_.r = 4;
    adapter_.lora_alpha = 6;
    adapter_.target_modules = {"q_proj", "down_proj"};
    adapter_.tensors[kQ + ".lora_A.weight"] = {qa_.data(), {4, 32}};
    adapter_.tensors[kQ + ".lora_B.weight"] = {qb_.data(), {32, 4}};
    adapter_.tensors[kDown + ".lora_A.weight"] = {da_.data(), {2, 48}};
    adapter_.tensors[kDown + ".lora_B.weight"] = {db_.data(), {32, 2}};
    adapter_.rank_pattern["model.layers.1.mlp.down_proj"] = 2;
    adapter_.alpha_pattern["model.layers.1.mlp.down_proj"] = 5;
  }
  json config() const { return json::parse(adapter_config_text(adapter_)); }

  const std::vector<float> qa_ = counting(128, 0), qb_ = counting(128, 1000), da_ = counting(96, 2000),
                           db_ = counting(64, 3000);
  TrainedAdapter adapter_;
  TempFolder folder_;
};

TEST_F(AdapterWriter, OurOwnReaderFindsTheSameAdapter) {
  const fs::path out = folder_.path() / "new" / "adapter";
  write_adapter(out, adapter_);
  const AdapterFile file(out, small_model());
  EXPECT_EQ(file.base_model_name(), "some/base");
  EXPECT_EQ(file.base_fingerprint(), "0123456789abcdef");
  ASSERT_EQ(file.pairs().size(), 2u);
  const AdapterPair &q = file.pairs()[0], &down = file.pairs()[1];
  EXPECT_EQ(q.rank, 4);
  EXPECT_EQ(q.scale, 1.5f);
  EXPECT_EQ(down.layer, 1);
  EXPECT_EQ(down.rank, 2);
  EXPECT_EQ(down.scale, 2.5f);
  const auto same = [](const TensorView& view, const std::vector<float>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return view.dtype == DType::kF32 &&
           std::equal(view.data.begin(), view.data.end(), bytes.begin(), bytes.end());
  };
  EXPECT_TRUE(same(q.a.stored, qa_));
  EXPECT_TRUE(same(q.b.stored, qb_));
  EXPECT_TRUE(same(down.a.stored, da_));
  EXPECT_TRUE(same(down.b.stored, db_));
}

/// The keys, and their order, of a folder that PEFT 0.18.1 wrote.
TEST_F(AdapterWriter, WritesEveryKeyThatPeftWritesInItsOrder) {
  const std::vector<std::string> expected = {"alora_invocation_tokens",
                                             "alpha_pattern",
                                             "arrow_config",
                                             "auto_mapping",
                                             "base_model_name_or_path",
                                             "bias",
                                             "corda_config",
                                             "ensure_weight_tying",
                                             "eva_config",
                                             "exclude_modules",
                                             "fan_in_fan_out",
                                             "inference_mode",
                                             "init_lora_weights",
                                             "layer_replication",
                                             "layers_pattern",
                                             "layers_to_transform",
                                             "loftq_config",
                                             "lora_alpha",
                                             "lora_bias",
                                             "lora_dropout",
                                             "megatron_config",
                                             "megatron_core",
                                             "modules_to_save",
                                             "peft_type",
                                             "peft_version",
                                             "qalora_group_size",
                                             "r",
                                             "rank_pattern",
                                             "revision",
                                             "target_modules",
                                             "target_parameters",
                                             "task_type",
                                             "trainable_token_indices",
                                             "use_dora",
                                             "use_qalora",
                                             "use_rslora"};
  std::vector<std::string> keys;
  const auto ordered = nlohmann::ordered_json::parse(adapter_config_text(adapter_));
  for (const auto& [key, value] : ordered.items()) keys.push_back(key);
  EXPECT_EQ(keys, expected);
  EXPECT_EQ(config()["target_modules"], (json{"down_proj", "q_proj"}));
  EXPECT_EQ(config()["modules_to_save"], nullptr);
  EXPECT_EQ(config()["init_lora_weights"], true);
  EXPECT_THAT(adapter_config_text(adapter_), testing::HasSubstr("\n  \"lora_alpha\": 6,\n"));
  EXPECT_THAT(adapter_config_text(adapter_), testing::HasSubstr("\n  \"lora_dropout\": 0.0,\n"));
}

TEST_F(AdapterWriter, SaysWhichVariantWasTrained) {
  adapter_.use_dora = adapter_.use_rslora = true;
  adapter_.lora_alpha = 0.5;
  adapter_.modules_to_save = {"lm_head", "embed_tokens"};
  adapter_.init_lora_weights = "pissa_niter_16";
  EXPECT_EQ(config()["use_dora"], true);
  EXPECT_EQ(config()["use_rslora"], true);
  EXPECT_EQ(config()["lora_alpha"], 0.5);
  EXPECT_EQ(config()["modules_to_save"], (json{"embed_tokens", "lm_head"}));
  EXPECT_EQ(config()["init_lora_weights"], "pissa_niter_16");
}

TEST_F(AdapterWriter, WritesMagnitudesAndWholeModules) {
  adapter_.tensors = {{kQ + ".lora_magnitude_vector", {qa_.data(), {32}}},
                      {"base_model.model.lm_head.weight", {qb_.data(), {4, 32}}}};
  write_adapter(folder_.path(), adapter_);
  const SafetensorsFile file(folder_.path() / "adapter_model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().at(kQ + ".lora_magnitude_vector").shape, (std::vector<int64_t>{32}));
  EXPECT_EQ(file.tensors().at("base_model.model.lm_head.weight").shape, (std::vector<int64_t>{4, 32}));
}

TEST_F(AdapterWriter, NamesWhatItCannotWrite) {
  folder_.write("file", "");
  expect_error(ErrorCode::kIo, {"cannot create", "file/adapter"},
               [&] { write_adapter(folder_.path() / "file" / "adapter", adapter_); });
}

}  // namespace
}  // namespace polylora
