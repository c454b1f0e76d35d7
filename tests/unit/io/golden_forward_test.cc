// transformers + PEFT in f32 are the reference: last-token logits of every checkpoint and adapter of
// ../shared/golden, or of the few in tests/data where that does not exist.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "io/adapter_file.h"
#include "io/checkpoint.h"
#include "model/forward.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

fs::path golden_folder() {
  const fs::path data = POLYLORA_TEST_DATA, shared = data / "../../../shared/golden";
  return fs::is_directory(shared) ? shared : data;
}

const fs::path kGolden = golden_folder();
constexpr float kTolerance = 2e-4f;  // the strict bound of the references' README

std::vector<std::string> folder_names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory()) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenForward : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    const auto& [backend, model] = GetParam();
    backend_ = make_backend({.name = backend});
    checkpoint_ = Checkpoint::open(kGolden / "models" / model);
    model_ = load_model(*checkpoint_, *backend_, WeightPolicy::kF32);
    const ModelConfig& config = model_->config;
    cache_ = backend_->make_kv_cache(
        {config.num_layers, kPages, config.num_kv_heads, config.head_dim, DType::kF32});
  }

  std::vector<float> last_logits(const std::vector<int32_t>& ids, const Adapter* adapter) {
    const int rows = static_cast<int>(ids.size());
    std::vector<int32_t> pages(kPages);
    std::iota(pages.rbegin(), pages.rend(), 0);  // out of order, as a busy pool hands them out
    Batch batch;
    batch.token_ids = ids;
    batch.positions.resize(ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    batch.sequences.push_back({0, rows, 0, pages});
    batch.groups.push_back({0, rows, adapter});
    // transformers takes longrope's factors by the length at hand, so that is the context here.
    ForwardPass forward(*model_, *backend_, 128, /*max_positions=*/rows);
    forward.run(batch, *cache_);
    std::vector<float> logits(static_cast<size_t>(model_->config.vocab_size));
    const std::vector<int32_t> last = {rows - 1};
    forward.logits(last, Mat(logits.data(), 1, model_->config.vocab_size));
    return logits;
  }

  void compare(const std::string& name, const Adapter* adapter) {
    const fs::path stem = kGolden / "refs" / std::get<1>(GetParam()) / name;
    const auto json = nlohmann::json::parse(std::ifstream(stem.string() + ".json"));
    const SafetensorsFile tensors(stem.string() + ".safetensors");
    for (const auto& item : json["cases"]) {
      const auto logits = last_logits(item["input_ids"].get<std::vector<int32_t>>(), adapter);
      const TensorView& expected =
          tensors.tensors().at(fmt::format("case{:02d}.last_logits", item["case"].get<int>()));
      ASSERT_EQ(expected.data.size(), logits.size() * sizeof(float));
      float worst = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        float value;
        std::memcpy(&value, expected.data.data() + i * sizeof value, sizeof value);
        worst = std::max(worst, std::fabs(value - logits[i]));
      }
      EXPECT_LE(worst, kTolerance) << name << " case " << item["case"];
    }
  }

  static constexpr int kPages = 8;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
};

TEST_P(GoldenForward, BaseModel) {
  compare("none", nullptr);
}

TEST_P(GoldenForward, EveryAdapter) {
  const fs::path root = kGolden / "adapters" / std::get<1>(GetParam());
  for (const std::string& name : folder_names(root)) {
    const AdapterFile file(root / name, model_->config);
    const auto adapter = file.load(*model_, *backend_, DType::kF32);
    compare(name, adapter.get());
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenForward,
                         testing::Combine(testing::Values("ref", "cpu"),
                                          testing::ValuesIn(folder_names(kGolden / "models"))),
                         [](const auto& param) {
                           return std::get<0>(param.param) + "_" + std::get<1>(param.param);
                         });

}  // namespace
}  // namespace polylora
