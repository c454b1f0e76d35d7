#include "cli/synthetic_adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "base/rng.h"
#include "io/adapter_writer.h"
#include "io/safetensors.h"
#include "model/weights.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr int kDifferentWeights = 8;  // files per rank
constexpr double kStdB = 0.01;        // about what training leaves in B

/// Uniform values of this standard deviation; what costs time in a model does not depend on their
/// distribution.
std::vector<uint16_t> random_matrix(int64_t rows, int64_t cols, double std, uint64_t key, uint64_t stream) {
  std::vector<uint16_t> values(static_cast<size_t>(rows * cols));
  const double width = std * std::sqrt(12.0);
  constexpr int kPerDraw = 4;  // 16 random bits are plenty for a bf16
  for (size_t i = 0; i < values.size(); i += kPerDraw) {
    uint64_t bits = random_bits(key, stream, i);
    for (size_t j = i; j < std::min(i + kPerDraw, values.size()); ++j, bits >>= 16)
      values[j] = f32_to_bf16(static_cast<float>((static_cast<double>(bits & 0xffff) / 65536 - 0.5) * width));
  }
  return values;
}

/// The tensors of one adapter, with the memory they point into.
struct Weights {
  std::map<std::string, TensorView> views;
  std::vector<std::vector<uint16_t>> values;

  void add(const std::string& name, int64_t rows, int64_t cols, double std, uint64_t key) {
    values.push_back(random_matrix(rows, cols, std, key, values.size()));
    views[name] = {DType::kBf16, {rows, cols}, std::as_bytes(std::span(values.back()))};
  }
};

/// Without waiting for the disk, as write_file_atomic does: there are thousands of these files, and nobody
/// needs them after a crash.
void write_quickly(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail(ErrorCode::kIo, "cannot write {}", path.string());
}

}  // namespace

SyntheticAdapters::SyntheticAdapters(fs::path folder, ModelConfig config, std::string base_model)
    : folder_(std::move(folder)), config_(std::move(config)), base_model_(std::move(base_model)) {}

fs::path SyntheticAdapters::weights_file(int64_t rank, int index) const {
  const int which = index % kDifferentWeights;
  const fs::path file = folder_ / fmt::format("weights-r{}-{}.safetensors", rank, which);
  if (fs::exists(file)) return file;
  const uint64_t key = static_cast<uint64_t>(rank) * kDifferentWeights + static_cast<uint64_t>(which);
  Weights weights;
  const std::vector<LinearModule> modules = linear_modules(config_);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    for (const LinearModule& module : modules) {
      if (!is_linear_layer(module)) continue;
      const std::string path = "base_model.model." + module_path(layer, module);
      weights.add(path + ".lora_A.weight", rank, module.k, 1 / std::sqrt(static_cast<double>(module.k)), key);
      weights.add(path + ".lora_B.weight", module.n_count, rank, kStdB, key);
    }
  }
  write_safetensors(file, weights.views);
  return file;
}

fs::path SyntheticAdapters::write(const std::string& name, int64_t rank, int index) const {
  const fs::path adapter = folder_ / name, weights = adapter / "adapter_model.safetensors";
  std::error_code failed;
  fs::create_directories(adapter, failed);
  if (failed) fail(ErrorCode::kIo, "cannot create {}: {}", adapter.string(), failed.message());
  fs::remove(weights, failed);
  const fs::path source = weights_file(rank, index);
  fs::create_hard_link(source, weights, failed);
  if (failed)
    fail(ErrorCode::kIo, "cannot link {} to {}: {}", weights.string(), source.string(), failed.message());

  TrainedAdapter settings;
  settings.base_model_name_or_path = base_model_;
  settings.r = rank;
  settings.lora_alpha = static_cast<double>(rank) * (1 + 1e-4 * index);
  for (const LinearModule& module : linear_modules(config_)) {
    if (is_linear_layer(module)) settings.target_modules.push_back(module.name);
  }
  write_quickly(adapter / "adapter_config.json", adapter_config_text(settings));
  return adapter;
}

}  // namespace polylora
