#include "io/adapter_writer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "io/adapter_source.h"
#include "io/safetensors.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Whole numbers without a fraction, as users write lora_alpha.
json number(double value) {
  constexpr double kExact = 9e15;
  if (std::floor(value) == value && std::abs(value) < kExact) return static_cast<int64_t>(value);
  return value;
}

json patterns(const std::map<std::string, double>& values) {
  json object = json::object();
  for (const auto& [pattern, value] : values) object[pattern] = number(value);
  return object;
}

json sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

/// What PEFT writes for everything that nothing here uses; a reader may expect every key.
json peft_defaults() {
  return json::parse(R"({
    "alora_invocation_tokens": null, "arrow_config": null, "auto_mapping": null, "bias": "none",
    "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
    "fan_in_fan_out": false, "inference_mode": true, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": null, "loftq_config": {}, "lora_bias": false, "megatron_config": null,
    "megatron_core": "megatron.core", "peft_type": "LORA", "peft_version": "0.18.1",
    "qalora_group_size": 16, "revision": null, "target_parameters": null, "task_type": "CAUSAL_LM",
    "trainable_token_indices": null, "use_qalora": false})");
}

TensorView view_of(const std::string& key, const AdapterTensor& tensor) {
  const int64_t count =
      std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
  check(tensor.data != nullptr && count > 0, "an adapter tensor without values: " + key);
  return {DType::kF32, tensor.shape, std::as_bytes(std::span(tensor.data, static_cast<size_t>(count)))};
}

}  // namespace

std::string adapter_config_text(const TrainedAdapter& adapter) {
  json config = peft_defaults();
  config["base_model_name_or_path"] = adapter.base_model_name_or_path;
  config["r"] = adapter.r;
  config["lora_alpha"] = number(adapter.lora_alpha);
  config["lora_dropout"] = adapter.lora_dropout;
  config["use_rslora"] = adapter.use_rslora;
  config["use_dora"] = adapter.use_dora;
  config["target_modules"] = sorted(adapter.target_modules);
  config["modules_to_save"] = adapter.modules_to_save.empty() ? json() : sorted(adapter.modules_to_save);
  config["rank_pattern"] = adapter.rank_pattern;
  config["alpha_pattern"] = patterns(adapter.alpha_pattern);
  config["init_lora_weights"] =
      adapter.init_lora_weights.empty() ? json(true) : json(adapter.init_lora_weights);
  return config.dump(2, ' ', false, json::error_handler_t::replace);
}

void write_adapter(const fs::path& folder, const TrainedAdapter& adapter) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) fail(ErrorCode::kIo, "cannot create {}: {}", folder.string(), failed.message());
  std::map<std::string, TensorView> views;
  for (const auto& [key, tensor] : adapter.tensors) views[key] = view_of(key, tensor);
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  if (!adapter.base_fingerprint.empty()) metadata[kBaseFingerprintKey] = adapter.base_fingerprint;
  write_safetensors(folder / "adapter_model.safetensors", views, metadata);
  write_file_atomic(folder / "adapter_config.json", adapter_config_text(adapter));
}

}  // namespace polylora
