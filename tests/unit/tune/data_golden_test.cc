// Token ids and labels against those that LLaMA-Factory makes of the same files (tests/data/llamafactory).
#include <gtest/gtest.h>

#include <algorithm>

#include "tune/data/training_data.h"
#include "tune_files.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kGolden = fs::path(POLYLORA_TEST_DATA) / "llamafactory";

TrainConfig config_of(const Json& golden, const Json& params) {
  TrainConfig config;
  config.dataset = {golden["dataset"].get<std::string>()};
  config.dataset_dir = kGolden / "data";
  config.template_name = golden["template"].get<std::string>();
  config.cutoff_len = params.value("cutoff_len", 2048);
  config.train_on_prompt = params.value("train_on_prompt", false);
  config.mask_history = params.value("mask_history", false);
  config.neat_packing = params.value("neat_packing", false);
  config.packing = params.value("packing", false) || config.neat_packing;
  config.has_default_system = params.contains("default_system");
  config.default_system = params.value("default_system", "");
  return config;
}

/// An example as the peer writes it into a row: packed rows are padded to cutoff_len.
Json as_peer_row(const Example& example, const TrainConfig& config, int pad_id) {
  Json row = {{"input_ids", example.input_ids}, {"labels", example.labels}};
  if (!config.packing) return row;
  const auto length = static_cast<size_t>(config.cutoff_len);
  std::vector<int32_t> attention(example.input_ids.size(), 1);
  if (config.neat_packing) {
    std::vector<int32_t> boundaries = example.segments;
    for (size_t i = 0; i < attention.size(); ++i) {
      attention[i] = static_cast<int32_t>(
          std::upper_bound(boundaries.begin(), boundaries.end(), static_cast<int32_t>(i)) -
          boundaries.begin());
    }
    boundaries.push_back(static_cast<int32_t>(example.input_ids.size()));
    boundaries.push_back(static_cast<int32_t>(length));  // the padding
    row["sequence_boundaries"] = boundaries;
  }
  attention.resize(length, config.neat_packing ? 0 : 1);
  row["attention_mask"] = attention;
  std::vector<int32_t> positions = example.positions;
  positions.resize(length, 0);
  row["position_ids"] = positions;
  row["input_ids"].get_ref<Json::array_t&>().resize(length, pad_id);
  row["labels"].get_ref<Json::array_t&>().resize(length, kIgnoreIndex);
  return row;
}

std::string golden_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param.substr(0, info.param.size() - 5);
  name.erase(std::remove(name.begin(), name.end(), '_'), name.end());
  return name;
}

std::vector<std::string> golden_files() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class DataGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(DataGolden, IdsAndLabelsAreThePeers) {
  const Json golden = read_json_file(kGolden / GetParam());
  const TestTokenizer model(golden["tokenizer"].get<std::string>());
  const int pad_id = golden["special"]["pad_id"].get<int>();
  ASSERT_FALSE(golden["cases"].empty());
  for (const Json& expected : golden["cases"]) {
    SCOPED_TRACE(expected["config"].get<std::string>());
    const TrainConfig config = config_of(golden, expected["params"]);
    const TrainingData data = load_training_data(config, *model.tokenizer, model.text);
    const std::vector<size_t> rows = expected["examples"];
    ASSERT_EQ(data.train.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i)
      EXPECT_EQ(as_peer_row(data.train[i], config, pad_id), golden["rows"].at(rows[i])) << "row " << i;
  }
}

TEST(DataGoldenFiles, AreAllThere) {
  EXPECT_EQ(golden_files().size(), 12U);
}

INSTANTIATE_TEST_SUITE_P(Files, DataGolden, ::testing::ValuesIn(golden_files()), golden_name);

}  // namespace
}  // namespace polylora
