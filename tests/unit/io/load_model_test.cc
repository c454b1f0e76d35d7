#include <atomic>
#include <deque>
#include <map>

#include "io/checkpoint.h"
#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;

/// A model that exists in memory only: zeros of whatever dtype the test asks for.
class FakeCheckpoint final : public Checkpoint {
 public:
  FakeCheckpoint() {
    config_.hidden_size = 64;
    config_.intermediate_size = 96;
    config_.num_layers = 2;
    config_.num_heads = 4;
    config_.num_kv_heads = 2;
    config_.head_dim = 16;
    config_.vocab_size = 40;
  }

  /// The dtype of the matrices whose name contains `part`; the last call wins.
  void store(const std::string& part, DType dtype) { dtypes_.emplace_front(part, dtype); }
  void store_vectors(const std::string& bytes) { vector_bytes_ = bytes; }
  int drops() const { return drops_; }

  const std::filesystem::path& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const nlohmann::json& hf_config() const override { return json_; }
  const TextAssets& text() const override { return text_; }
  std::string format_name() const override { return "fake"; }
  void drop_pages() const override { ++drops_; }

  void append_rows(const TensorSpec& spec, WeightSource& source) const override {
    source.cols = spec.cols == 0 ? spec.rows : spec.cols;
    const DType dtype = spec.cols == 0 ? DType::kF32 : dtype_of(spec.name);
    for (int64_t r = 0; r < (spec.cols == 0 ? 1 : spec.rows); ++r)
      source.rows.push_back({spec.cols == 0 ? vector_bytes_.data() : zeros_.data(), dtype});
  }

 private:
  DType dtype_of(const std::string& name) const {
    for (const auto& [part, dtype] : dtypes_) {
      if (name.find(part) != std::string::npos) return dtype;
    }
    return DType::kF32;
  }

  ModelConfig config_;
  nlohmann::json json_;
  TextAssets text_;
  std::filesystem::path path_;
  std::deque<std::pair<std::string, DType>> dtypes_;
  std::string zeros_ = std::string(1024, '\0'), vector_bytes_ = zeros_;
  mutable std::atomic<int> drops_ = 0;
};

class LoadModel : public testing::Test {
 protected:
  std::unique_ptr<Model> load(WeightPolicy policy, const ProgressFn& progress = {}) {
    return load_model(checkpoint_, *backend_, policy, progress);
  }
  static WeightFormat format(const Model& model, Site site) {
    return model.layers.back().at(site).weight->format();
  }

  FakeCheckpoint checkpoint_;
  std::unique_ptr<Backend> backend_ = make_backend({.name = "ref"});
};

TEST_F(LoadModel, FillsEveryPartWithItsShape) {
  const auto model = load(WeightPolicy::kF32);
  const ModelConfig& config = model->config;
  EXPECT_EQ(model->embedding->rows(), config.vocab_size);
  EXPECT_EQ(model->lm_head->cols(), config.hidden_size);
  EXPECT_EQ(model->final_norm.size(), 64u);
  ASSERT_EQ(model->layers.size(), 2u);
  for (const Layer& layer : model->layers) {
    for (const Site site : {Site::kQkv, Site::kO, Site::kGateUp, Site::kDown})
      EXPECT_EQ(layer.at(site).weight->rows(), site_rows(config, site));
    EXPECT_EQ(layer.norm(Norm::kInput).size(), 64u);
    EXPECT_TRUE(layer.at(Site::kQkv).bias.empty());
  }
  EXPECT_GT(model->bytes(), 0u);
}

TEST_F(LoadModel, NativePolicyMakesPlainFloatsBf16) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    checkpoint_.store("", dtype);
    const auto model = load(WeightPolicy::kNative);
    EXPECT_EQ(format(*model, Site::kQkv), WeightFormat::kBf16);
    EXPECT_EQ(model->embedding->format(), WeightFormat::kBf16);
  }
}

TEST_F(LoadModel, NativePolicyKeepsBlocksAndTakesTheWiderOfAFusedPair) {
  checkpoint_.store("", DType::kQ4_1);
  checkpoint_.store("embed_tokens", DType::kQ8_0);
  checkpoint_.store("v_proj", DType::kQ8_0);
  checkpoint_.store("up_proj", DType::kF16);
  const auto model = load(WeightPolicy::kNative);
  EXPECT_EQ(model->embedding->format(), WeightFormat::kQ8);
  EXPECT_EQ(format(*model, Site::kQkv), WeightFormat::kQ8);
  EXPECT_EQ(format(*model, Site::kO), WeightFormat::kQ4);
  EXPECT_EQ(format(*model, Site::kGateUp), WeightFormat::kBf16);
}

TEST_F(LoadModel, Q4KeepsTheVocabularyInQ8) {
  const auto model = load(WeightPolicy::kQ4);
  EXPECT_EQ(format(*model, Site::kDown), WeightFormat::kQ4);
  EXPECT_EQ(model->embedding->format(), WeightFormat::kQ8);
  EXPECT_EQ(model->lm_head->format(), WeightFormat::kQ8);
}

TEST_F(LoadModel, GivesPagesBackAndReportsProgressUpToTheEnd) {
  double last = 0;
  load(WeightPolicy::kBf16, [&](std::string_view, double fraction) {
    EXPECT_GE(fraction, last);
    last = fraction;
  });
  EXPECT_GT(last, 0);
  EXPECT_LE(last, 1);
  EXPECT_GE(checkpoint_.drops(), 1);
}

TEST_F(LoadModel, NamesANormThatHoldsNan) {
  checkpoint_.store_vectors(std::string(1024, '\xff'));
  expect_error(ErrorCode::kDataCorrupt, {"model.layers.0.input_layernorm.weight", "NaN"},
               [&] { load(WeightPolicy::kF32); });
}

TEST_F(LoadModel, AnExceptionOfTheProgressCallbackReachesTheCaller) {
  expect_error(ErrorCode::kUnavailable, {"cancelled"}, [&] {
    load(WeightPolicy::kF32, [](std::string_view, double) { fail(ErrorCode::kUnavailable, "cancelled"); });
  });
}

}  // namespace
}  // namespace polylora
