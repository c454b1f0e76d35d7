// The default model's own chat template and tokenizer (models/, GGUF). Skipped when the model is absent.
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "tune/data/jinja_format.h"
#include "tune/data/training_data.h"
#include "tune_files.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

class SmolLm2Data : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path file = fs::path(POLYLORA_TEST_DATA) / "../../models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!path_exists(file)) GTEST_SKIP() << "the default model is absent";
    const TextAssets assets = Checkpoint::open(file)->text();
    tokenizer_ = Tokenizer::from_json(assets.tokenizer_json, assets.tokenizer_config_json);
    text_ = model_text(assets);
    config_.dataset_dir = fs::path(POLYLORA_TEST_DATA) / "llamafactory" / "data";
    config_.dataset = {"alpaca12", "sharegpt12"};
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  ModelText text_;
  TrainConfig config_;
};

/// As the model's template has it; LLaMA-Factory's ends with a full stop.
const char* const kOwnSystem = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// Its Jinja is what LLaMA-Factory's template of this name writes by hand: rendering must give the same ids.
TEST_F(SmolLm2Data, ItsOwnTemplateIsTheNamedOne) {
  const TrainingData own = load_training_data(config_, *tokenizer_, text_);
  config_.template_name = "smollm2";
  config_.has_default_system = true;
  config_.default_system = kOwnSystem;
  const TrainingData named = load_training_data(config_, *tokenizer_, text_);
  ASSERT_EQ(own.train.size(), 22U);
  ASSERT_EQ(named.train.size(), 22U);
  for (size_t i = 0; i < own.train.size(); ++i) {
    EXPECT_EQ(own.train[i].input_ids, named.train[i].input_ids) << i;
    EXPECT_EQ(own.train[i].labels, named.train[i].labels) << i;
  }
}

TEST_F(SmolLm2Data, ItsOwnTemplateHasTheNamedOnesStrings) {
  const ChatFormat own = chat_format_of("", *tokenizer_, text_);
  const ChatFormat& named = find_chat_format("smollm2");
  EXPECT_EQ(own.default_system, kOwnSystem);
  EXPECT_EQ(own.default_system + ".", named.default_system);
  EXPECT_EQ(own.system.at(0).text, named.system.at(0).text);
  EXPECT_EQ(own.user.at(0).text, named.user.at(0).text);
  EXPECT_EQ(own.assistant.at(0).text, named.assistant.at(0).text);
}

}  // namespace
}  // namespace polylora
