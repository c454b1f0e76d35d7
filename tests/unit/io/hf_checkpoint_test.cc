#include <cstring>

#include "io/checkpoint.h"
#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::json;
namespace fs = std::filesystem;

const fs::path kModels = fs::path(POLYLORA_TEST_DATA) / "models";

class HfCheckpoint : public testing::Test {
 protected:
  /// A copy of a model of tests/data, to be damaged.
  void copy_model(const std::string& name) {
    for (const auto& entry : fs::directory_iterator(kModels / name))
      fs::copy_file(entry.path(), folder_.path() / entry.path().filename(),
                    fs::copy_options::overwrite_existing);
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
  }
  void edit_json(const std::string& file, const std::function<void(json&)>& edit) {
    json value = json::parse(read_all(folder_.path() / file));
    edit(value);
    folder_.write(file, value.dump());
  }
  /// Splits model.safetensors into two shards with an index.
  void shard() {
    const fs::path single = folder_.path() / "model.safetensors";
    {
      const SafetensorsFile file(single);
      std::map<std::string, TensorView> halves[2];
      json map;
      for (const auto& [name, tensor] : file.tensors()) {
        const size_t half = halves[0].size() > halves[1].size() ? 1 : 0;
        halves[half][name] = tensor;
        map[name] = half == 0 ? "model-1.safetensors" : "model-2.safetensors";
      }
      write_safetensors(folder_.path() / "model-1.safetensors", halves[0]);
      write_safetensors(folder_.path() / "model-2.safetensors", halves[1]);
      folder_.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
    }
    fs::remove(single);
  }
  std::unique_ptr<Checkpoint> open() { return Checkpoint::open(folder_.path()); }
  void expect_refused(ErrorCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] {
      const auto checkpoint = open();
      for_each_tensor(checkpoint->config(), [&](const TensorSpec& spec) {
        WeightSource source;
        checkpoint->append_rows(spec, source);
      });
    });
  }

  TempFolder folder_;
};

std::string bytes_of(const Checkpoint& checkpoint) {
  std::string bytes;
  for_each_tensor(checkpoint.config(), [&](const TensorSpec& spec) {
    WeightSource source;
    checkpoint.append_rows(spec, source);
    for (const WeightSource::Row& row : source.rows)
      bytes.append(static_cast<const char*>(row.data), dtype_row_bytes(row.dtype, source.cols));
  });
  return bytes;
}

TEST_F(HfCheckpoint, ShardsHoldTheSameTensors) {
  copy_model("llama_v5cfg_bias");
  shard();
  EXPECT_EQ(bytes_of(*open()), bytes_of(*Checkpoint::open(kModels / "llama_v5cfg_bias")));
  EXPECT_EQ(open()->format_name(), "safetensors F32");
}

TEST_F(HfCheckpoint, NamesAMissingShard) {
  copy_model("llama_plain_tied");
  shard();
  fs::remove(folder_.path() / "model-2.safetensors");
  expect_refused(ErrorCode::kNotFound, {"model-2.safetensors is missing"});
}

TEST_F(HfCheckpoint, AnIndexCannotLeaveItsFolder) {
  copy_model("llama_plain_tied");
  shard();
  for (const char* shard : {"../model-1.safetensors", "/etc/passwd", "..", ".", "", "a/b"}) {
    edit_json("model.safetensors.index.json",
              [&](json& index) { index["weight_map"]["lm_head.weight"] = shard; });
    expect_refused(ErrorCode::kDataCorrupt, {"lm_head.weight", "in the same folder"});
  }
  folder_.write("model.safetensors.index.json", "{}");
  expect_refused(ErrorCode::kDataCorrupt, {"weight_map"});
}

TEST_F(HfCheckpoint, ATensorInTwoShardsIsRefused) {
  copy_model("llama_plain_tied");
  shard();
  fs::copy_file(folder_.path() / "model-1.safetensors", folder_.path() / "model-3.safetensors");
  edit_json("model.safetensors.index.json",
            [&](json& index) { index["weight_map"]["x"] = "model-3.safetensors"; });
  expect_refused(ErrorCode::kDataCorrupt, {"is in two shards"});
}

TEST_F(HfCheckpoint, GenerationConfigAddsToWhatEndsAText) {
  copy_model("llama_plain_tied");
  edit_json("generation_config.json", [](json& config) { config["eos_token_id"] = {2, 11}; });
  EXPECT_THAT(open()->config().eos_token_ids, testing::ElementsAre(2, 11));
  edit_json("generation_config.json", [](json& config) { config["eos_token_id"] = "x"; });
  expect_refused(ErrorCode::kDataCorrupt, {"generation_config.json", "eos_token_id"});
}

TEST_F(HfCheckpoint, PrefersTheTemplateFileAndTakesTheDefaultOfAList) {
  copy_model("llama_plain_tied");
  folder_.write("tokenizer_config.json", R"({"chat_template": "inline", "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": false}})");
  EXPECT_EQ(open()->text().chat_template, "inline");
  EXPECT_EQ(open()->text().bos_token, "<s>");
  EXPECT_EQ(open()->text().eos_token, "</s>");
  folder_.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"},
    {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(open()->text().chat_template, "plain");
  folder_.write("chat_template.jinja", "file");
  EXPECT_EQ(open()->text().chat_template, "file");
}

TEST_F(HfCheckpoint, SpecialTokensMapFillsWhatTheTokenizerConfigLeavesOut) {
  copy_model("llama_plain_tied");
  folder_.write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  folder_.write("special_tokens_map.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "other"})");
  EXPECT_EQ(open()->text().bos_token, "<s>");
  EXPECT_EQ(open()->text().eos_token, "</s>");
}

TEST_F(HfCheckpoint, AnUntiedModelNeedsItsLmHead) {
  copy_model("llama_plain_tied");
  edit_json("config.json", [](json& config) { config["tie_word_embeddings"] = false; });
  expect_refused(ErrorCode::kDataCorrupt, {"lm_head.weight is missing", "tie_word_embeddings"});
}

TEST_F(HfCheckpoint, NamesATensorWhoseShapeOrTypeIsWrong) {
  copy_model("llama_plain_tied");
  edit_json("config.json", [](json& config) { config["intermediate_size"] = 192; });
  expect_refused(ErrorCode::kDataCorrupt, {"mlp.gate_proj.weight", "[176, 64]", "[192, 64]"});

  copy_model("llama_plain_tied");
  std::string weights = read_all(folder_.path() / "model.safetensors");
  for (size_t at = 0; (at = weights.find("\"F32\"", at)) != std::string::npos;)
    weights.replace(at, 5, "\"I32\"");
  folder_.write("model.safetensors", weights);
  expect_refused(ErrorCode::kUnsupported, {"model.embed_tokens.weight", "I32", "BF16"});
}

TEST_F(HfCheckpoint, SaysWhatAFolderLacks) {
  expect_error(ErrorCode::kNotFound, {"no model at", ".gguf"}, [] { Checkpoint::open("/no/such/model"); });
  expect_error(ErrorCode::kNotFound, {"no model at"}, [] { Checkpoint::open(std::string(5000, 'x')); });
  expect_refused(ErrorCode::kNotFound, {"config.json"});
  copy_model("llama_plain_tied");
  fs::remove(folder_.path() / "model.safetensors");
  expect_refused(ErrorCode::kNotFound, {"model.safetensors"});
  folder_.write("pytorch_model.bin", "pickle");
  expect_refused(ErrorCode::kUnsupported, {"pickled"});
  folder_.write("config.json", "[1, 2");
  expect_refused(ErrorCode::kDataCorrupt, {"config.json", "not valid JSON"});
}

TEST_F(HfCheckpoint, SurvivesMutatedConfigs) {
  copy_model("llama_plain_tied");
  survive_mutations(read_all(folder_.path() / "config.json"), 1000, [&](const std::string& config) {
    folder_.write("config.json", config);
    bytes_of(*open());
  });
}

}  // namespace
}  // namespace polylora
