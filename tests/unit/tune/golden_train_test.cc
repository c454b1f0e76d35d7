// torch + PEFT in f32 are the reference: losses, first gradients and adapters of twenty steps of a tiny
// Llama. What the tolerances separate is listed in the references' README: every classic mistake is far
// outside.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "tune/train/optimizer.h"
#include "tune/train/training_pass.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
const fs::path kTrain = fs::path(POLYLORA_TEST_DATA) / "train";

constexpr int kSteps = 20;
constexpr double kLossTolerance = 1e-5, kGradientTolerance = 1e-5, kAdapterTolerance = 2e-6;

template <typename T>
std::vector<T> values_of(const TensorView& tensor) {
  std::vector<T> values(tensor.data.size() / sizeof(T));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

/// Row block `step` of batches.safetensors as four unpadded examples.
std::vector<Example> examples_of_step(const SafetensorsFile& file, int step) {
  constexpr size_t kRows = 4, kWidth = 64;
  const auto ids = values_of<int32_t>(file.tensors().at("input_ids"));
  const auto labels = values_of<int32_t>(file.tensors().at("labels"));
  const auto lengths = values_of<int32_t>(file.tensors().at("lengths"));
  std::vector<Example> examples(kRows);
  for (size_t row = 0; row < kRows; ++row) {
    const size_t at = static_cast<size_t>(step) * kRows + row;
    const auto begin = static_cast<std::ptrdiff_t>(at * kWidth), end = begin + lengths[at];
    examples[row].input_ids.assign(ids.begin() + begin, ids.begin() + end);
    examples[row].labels.assign(labels.begin() + begin, labels.begin() + end);
  }
  return examples;
}

struct Case {
  std::string backend;
  std::string reference;
  int rows_at_once;         // 4: one micro-batch a step; 1: four
  size_t activation_bytes;  // 0: every layer is computed twice
  std::string name() const {
    return fmt::format("{}_{}_{}_{}", backend, reference, rows_at_once,
                       activation_bytes > 0 ? "keep" : "recompute");
  }
};

class GoldenTrain : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    backend_ = make_training_backend({.name = c.backend, .threads = 2});
    model_ = load_model(*Checkpoint::open(kTrain / "model"), *backend_, WeightPolicy::kF32);
    LoraSettings settings;
    settings.rank = 4;
    settings.alpha = 8;
    trained_ = std::make_unique<TrainableAdapter>(model_->config, settings);
    load_adapter(kTrain / c.reference / "adapter_init");
    pass_ = std::make_unique<TrainingPass>(*model_, *backend_, trained_.get(),
                                           TrainingPassOptions{.max_rows = 64 * c.rows_at_once,
                                                               .max_positions = 64,
                                                               .dtype = DType::kF32,
                                                               .activation_bytes = c.activation_bytes});
    OptimizerSettings adamw;
    adamw.max_grad_norm = 0;
    optimizer_ = std::make_unique<Optimizer>(*backend_, *trained_, adamw);
  }

  void load_adapter(const fs::path& folder) {
    const SafetensorsFile file(folder / "adapter_model.safetensors");
    ASSERT_EQ(file.tensors().size(), trained_->parameters().size());
    for (const Parameter& parameter : trained_->parameters()) {
      const auto values = values_of<float>(file.tensors().at(parameter.name));
      std::copy(values.begin(), values.end(), trained_->value(parameter).data);
    }
  }

  /// Loss of the step; gradients are left in the adapter.
  double gradients_of(const std::vector<Example>& examples) {
    int64_t labelled = 0;
    for (const Example& example : examples) labelled += count_targets(example);
    optimizer_->zero_gradients();
    const auto adapter = trained_->pack(*backend_, DType::kF32);
    double sum = 0.0;
    const auto at_once = static_cast<size_t>(GetParam().rows_at_once);
    for (size_t first = 0; first < examples.size(); first += at_once) {
      std::vector<const Example*> some;
      for (size_t i = 0; i < at_once; ++i) some.push_back(&examples[first + i]);
      MicroBatch micro = make_micro_batch(some, std::vector<uint64_t>(at_once));
      const std::vector<float> weights(micro.targets.size(), 1.0f / static_cast<float>(labelled));
      std::vector<float> loss(micro.targets.size());
      pass_->forward(micro, adapter.get(), TrainingPass::Mode::kForBackward);
      pass_->backward(micro, weights, loss);
      for (const float value : loss) sum += value;
    }
    return sum / static_cast<double>(labelled);
  }

  void expect_gradients(const fs::path& path) {
    const SafetensorsFile file(path);
    for (const Parameter& parameter : trained_->parameters()) {
      const auto expected = values_of<float>(file.tensors().at(parameter.name));
      double difference = 0.0, size = 0.0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double gap = double{expected[i]} - double{trained_->gradient(parameter).data[i]};
        difference += gap * gap;
        size += double{expected[i]} * double{expected[i]};
      }
      EXPECT_LE(std::sqrt(difference), kGradientTolerance * std::sqrt(size)) << parameter.name;
    }
  }

  void expect_adapter(const fs::path& folder, double tolerance) {
    const SafetensorsFile file(folder / "adapter_model.safetensors");
    double worst = 0.0;
    for (const Parameter& parameter : trained_->parameters()) {
      const auto expected = values_of<float>(file.tensors().at(parameter.name));
      for (size_t i = 0; i < expected.size(); ++i)
        worst = std::max(worst, std::fabs(double{expected[i]} - double{trained_->value(parameter).data[i]}));
    }
    EXPECT_LE(worst, tolerance) << folder;
  }

  std::unique_ptr<TrainingBackend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<TrainableAdapter> trained_;
  std::unique_ptr<TrainingPass> pass_;
  std::unique_ptr<Optimizer> optimizer_;
};

TEST_P(GoldenTrain, TwentySteps) {
  const fs::path reference = kTrain / GetParam().reference;
  const auto expected = nlohmann::json::parse(std::ifstream(reference / "losses.json"));
  const SafetensorsFile batches(kTrain / "batches.safetensors");
  for (int step = 0; step < kSteps; ++step) {
    const double loss = gradients_of(examples_of_step(batches, step));
    EXPECT_NEAR(loss, expected["losses"][static_cast<size_t>(step)].get<double>(), kLossTolerance) << step;
    if (step == 0) expect_gradients(reference / "grads_step1.safetensors");
    const double norm = optimizer_->update(step + 1, 1e-3);
    EXPECT_NEAR(norm, expected["grad_norm_l2"][static_cast<size_t>(step)].get<double>(), 1e-4 * norm) << step;
    if (step == 0) expect_adapter(reference / "adapter_step1", kAdapterTolerance);
  }
  expect_adapter(reference / "adapter_step20", kAdapterTolerance);
}

constexpr size_t kKeepAll = size_t{1} << 30;
INSTANTIATE_TEST_SUITE_P(All, GoldenTrain,
                         testing::Values(Case{"ref", "b_zero", 4, kKeepAll},
                                         Case{"ref", "b_random", 4, kKeepAll}, Case{"ref", "b_random", 1, 0},
                                         Case{"cpu", "b_zero", 4, kKeepAll},
                                         Case{"cpu", "b_random", 4, kKeepAll}, Case{"cpu", "b_random", 4, 0},
                                         Case{"cpu", "b_random", 1, kKeepAll}),
                         [](const auto& param) { return param.param.name(); });

}  // namespace
}  // namespace polylora
