// The default model, SmolLM2-135M-Instruct in GGUF Q4_1: real names, real vocabulary, a real answer. Skipped
// where the file is not there (scripts fetch it; it is never committed).
#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "io/checkpoint.h"
#include "io/file_builders.h"
#include "model/forward.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

fs::path model_path() {
  if (const char* named = std::getenv("POLYLORA_DEFAULT_MODEL")) return named;
  return fs::path(POLYLORA_TEST_DATA) / "../../models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(model_path())) GTEST_SKIP() << model_path() << " is absent; set POLYLORA_DEFAULT_MODEL";
    checkpoint_ = Checkpoint::open(model_path());
  }

  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(SmolLm2, DescribesItself) {
  const ModelConfig& config = checkpoint_->config();
  EXPECT_EQ(config.num_layers, 30);
  EXPECT_EQ(config.num_heads, 9);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.rope_theta, 100000.0);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_THAT(config.eos_token_ids, testing::ElementsAre(2));
  EXPECT_EQ(checkpoint_->format_name(), "GGUF Q4_1");
}

TEST_F(SmolLm2, RendersItsVocabularyAsAnHfTokenizer) {
  const TextAssets& text = checkpoint_->text();
  const auto tokenizer = nlohmann::json::parse(text.tokenizer_json);
  EXPECT_EQ(tokenizer["model"]["vocab"].size(), 49152u);
  EXPECT_EQ(tokenizer["model"]["merges"].size(), 48900u);
  EXPECT_EQ(tokenizer["added_tokens"].size(), 17u);
  EXPECT_EQ(text.bos_token, "<|im_start|>");
  EXPECT_EQ(text.eos_token, "<|im_end|>");
  EXPECT_THAT(text.chat_template, testing::HasSubstr("<|im_start|>"));
}

/// Greedy continuation in f32, up to and including the end of the turn.
std::vector<int32_t> continue_greedily(const Model& model, Backend& backend, std::vector<int32_t> ids) {
  const ModelConfig& config = model.config;
  constexpr int kPages = 4, kPositions = kPages * kKvPageSize;
  ForwardPass forward(model, backend, kPositions, kPositions);
  const auto cache =
      backend.make_kv_cache({config.num_layers, kPages, config.num_kv_heads, config.head_dim, DType::kF32});
  std::vector<int32_t> pages(kPages), generated;
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<float> logits(static_cast<size_t>(config.vocab_size));
  for (int position = 0; generated.empty() || generated.back() != config.eos_token_ids.front();) {
    const int rows = static_cast<int>(ids.size());
    if (position + rows > kPositions) break;
    Batch batch{.token_ids = ids,
                .positions = std::vector<int32_t>(ids.size()),
                .sequences = {},
                .groups = {},
                .adapter_input = {}};
    std::iota(batch.positions.begin(), batch.positions.end(), position);
    batch.sequences.push_back({0, rows, position, pages});
    batch.groups.push_back({0, rows, nullptr});
    forward.run(batch, *cache);
    const std::vector<int32_t> last = {rows - 1};
    forward.logits(last, Mat(logits.data(), 1, config.vocab_size));
    position += rows;
    ids = {static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    generated.push_back(ids.front());
  }
  return generated;
}

// transformers gives these ids for "What is the capital of France?" in the model's chat template.
TEST_F(SmolLm2, AnswersAsTransformersDoes) {
  const std::vector<int32_t> prompt = {1,    9690, 198,   2683, 359,  253,  5356, 5646,  11173, 3365,
                                       3511, 308,  34519, 28,   7018, 411,  407,  19712, 8182,  2,
                                       198,  1,    4093,  198,  1780, 314,  260,  3575,  282,   4649,
                                       47,   2,    198,   1,    520,  9531, 198};
  const auto backend = make_backend();
  const auto model = load_model(*checkpoint_, *backend, WeightPolicy::kF32);
  EXPECT_THAT(
      continue_greedily(*model, *backend, prompt),
      testing::ElementsAre(504, 3575, 282, 4649, 314, 7042, 30, 2));  // "The capital of France is Paris."
}

TEST_F(SmolLm2, KeepsItsBlocksAsTheyAreStored) {
  const auto backend = make_backend();
  const auto model = load_model(*checkpoint_, *backend, WeightPolicy::kNative);
  EXPECT_EQ(model->embedding->format(), WeightFormat::kQ8);
  for (const Layer& layer : model->layers) {
    for (const Site site : sites(model->config))
      EXPECT_EQ(layer.at(site).weight->format(), WeightFormat::kQ4);
  }
}

}  // namespace
}  // namespace polylora
