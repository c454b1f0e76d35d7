// A random Llama small enough to run hundreds of requests in a test, and random adapters for it on disk.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora::testing {

inline ModelConfig tiny_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 160;
  config.max_position_embeddings = 256;
  config.tie_word_embeddings = true;
  config.eos_token_ids = {2};
  return config;
}

class RandomTensors {
 public:
  explicit RandomTensors(unsigned seed) : random_(seed) {}
  std::vector<float> operator()(int64_t count, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }

 private:
  std::mt19937 random_;
};

inline std::unique_ptr<Weight> pack(Backend& backend, const std::vector<float>& values, int64_t rows,
                                    int64_t cols) {
  return backend.pack_weight(rows_of(ConstMat(values.data(), rows, cols)), WeightFormat::kBf16);
}

inline Model tiny_model(Backend& backend) {
  Model model;
  model.config = tiny_config();
  const ModelConfig& config = model.config;
  RandomTensors random(17);
  const auto weight = [&](int64_t rows, int64_t cols) {
    return pack(backend, random(rows * cols, 0.2f), rows, cols);
  };
  model.embedding = pack(backend, random(config.vocab_size * config.hidden_size, 1.0f), config.vocab_size,
                         config.hidden_size);
  model.final_norm.assign(static_cast<size_t>(config.hidden_size), 1.0f);
  model.layers = make_layers(config);
  for (Layer& one : model.layers) {
    one.norm(Norm::kInput) = one.norm(Norm::kMlp) = model.final_norm;
    one.at(Site::kQkv).weight = weight(config.qkv_size(), config.hidden_size);
    one.at(Site::kO).weight = weight(config.hidden_size, config.q_size());
    one.at(Site::kGateUp).weight = weight(2 * config.intermediate_size, config.hidden_size);
    one.at(Site::kDown).weight = weight(config.hidden_size, config.intermediate_size);
  }
  return model;
}

/// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "polylora-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Writes a PEFT folder; `scale` of the B matrices decides how much the adapter changes.
inline std::filesystem::path write_adapter(const std::filesystem::path& folder, unsigned seed,
                                           int64_t rank = 4, float scale = 0.3f) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "adapter_config.json")
      << R"({"peft_type":"LORA","r":)" << rank << R"(,"lora_alpha":)" << 2 * rank
      << R"(,"target_modules":["q_proj","v_proj","down_proj"],"base_model_name_or_path":"tiny"})";
  const ModelConfig config = tiny_config();
  RandomTensors random(seed);
  std::map<std::string, std::vector<float>> data;
  std::map<std::string, TensorView> tensors;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearModule& module : linear_modules(config)) {
      if (module.name != "q_proj" && module.name != "v_proj" && module.name != "down_proj") continue;
      const std::string prefix = "base_model.model." + module_path(layer, module);
      const auto add = [&](const std::string& name, int64_t rows, int64_t cols, float spread) {
        const auto& values = data[name] = random(rows * cols, spread);
        tensors[name] = {DType::kF32, {rows, cols}, std::as_bytes(std::span(values))};
      };
      add(prefix + ".lora_A.weight", rank, module.k, 0.3f);
      add(prefix + ".lora_B.weight", module.n_count, rank, scale);
    }
  }
  write_safetensors(folder / "adapter_model.safetensors", tensors);
  return folder;
}

}  // namespace polylora::testing
