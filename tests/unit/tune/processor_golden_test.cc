// Every named template, reasoning, preference pairs, pre-training and Modelfiles against what LLaMA-Factory's
// own converters, templates and processors make of the same records (tests/data/llamafactory/processors).
#include <gtest/gtest.h>

#include "tune/data/training_data.h"
#include "tune/merge/ollama_modelfile.h"
#include "tune_files.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kFolder = fs::path(POLYLORA_TEST_DATA) / "llamafactory" / "processors";

Stage stage_of(const std::string& name) {
  if (name == "pt") return Stage::kPt;
  return name == "dpo" ? Stage::kDpo : Stage::kSft;
}

TrainConfig config_of(const Json& expected) {
  const Json& params = expected["params"];
  TrainConfig config;
  config.stage = stage_of(expected["stage"]);
  config.dataset = {expected["dataset"].get<std::string>()};
  config.dataset_dir = kFolder;
  config.template_name = expected["template"].get<std::string>();
  config.cutoff_len = params.value("cutoff_len", 2048);
  config.mask_history = params.value("mask_history", false);
  config.packing = params.value("packing", false);
  config.enable_thinking = params.value("enable_thinking", true);
  config.has_default_system = params.contains("default_system");
  config.default_system = params.value("default_system", "");
  return config;
}

Json as_json(const TrainingData& data, Stage stage) {
  Json rows = Json::array();
  for (const PreferencePair& pair : data.train_pairs) {
    rows.push_back({{"chosen_input_ids", pair.chosen.input_ids},
                    {"chosen_labels", pair.chosen.labels},
                    {"rejected_input_ids", pair.rejected.input_ids},
                    {"rejected_labels", pair.rejected.labels}});
  }
  for (const Example& example : data.train) {
    rows.push_back({{"input_ids", example.input_ids}});
    if (stage == Stage::kSft) rows.back()["labels"] = example.labels;
  }
  return rows;
}

class ProcessorGolden : public ::testing::Test {
 protected:
  ProcessorGolden() : golden_(read_json_file(kFolder / "golden.json")) {
    Json config;
    for (const auto& [token, id] : golden_["added_tokens"].items())
      config["added_tokens_decoder"][std::to_string(id.get<int>())] = {{"content", token}, {"special", true}};
    const fs::path base = fs::path(POLYLORA_TEST_DATA) / "text" / "tokenizers" / "deepseek_style";
    tokenizer_ = Tokenizer::from_json(read_text_file(base / "tokenizer.json"), config.dump());
    text_.bos_token = "<s>";
    text_.eos_token = "</s>";
  }

  Json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelText text_;
};

TEST_F(ProcessorGolden, IdsAndLabelsAreThePeers) {
  ASSERT_FALSE(golden_["cases"].empty());
  for (const Json& expected : golden_["cases"]) {
    const TrainConfig config = config_of(expected);
    text_.add_bos_token = expected.value("add_bos_token", false);
    const Json rows = as_json(load_training_data(config, *tokenizer_, text_), config.stage);
    EXPECT_EQ(rows, expected["examples"]) << expected["stage"] << " " << expected["dataset"] << " "
                                          << expected["template"] << " " << expected["params"].dump();
  }
}

TEST_F(ProcessorGolden, ModelfilesAreThePeers) {
  int compared = 0;
  for (const Json& expected : golden_["cases"]) {
    if (!expected.contains("modelfile")) continue;
    const ChatFormat& format = find_chat_format(expected["template"].get<std::string>());
    const std::string peers = expected["modelfile"].get<std::string>();
    const std::string ours = ollama_modelfile(format, *tokenizer_, text_);
    EXPECT_EQ(ours.substr(ours.find("FROM")), peers.substr(peers.find("FROM"))) << format.name;
    ++compared;
  }
  EXPECT_EQ(compared, 13);
}

}  // namespace
}  // namespace polylora
