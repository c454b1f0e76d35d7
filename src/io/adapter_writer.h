// Writes PEFT adapter folders: adapter_config.json and adapter_model.safetensors, in the format of PEFT 0.18
// (https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace polylora {

/// Values somewhere else, row-major f32; they must live until written.
struct AdapterTensor {
  const float* data = nullptr;
  std::vector<int64_t> shape;
};

/// An adapter in PEFT's terms; members are named as the keys of adapter_config.json.
struct TrainedAdapter {
  std::string base_model_name_or_path;
  std::string base_fingerprint;  // of the model it was trained on; empty: not written
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  bool use_dora = false;
  std::vector<std::string> target_modules;   // "q_proj", …; written sorted
  std::vector<std::string> modules_to_save;  // "lm_head", …: trained whole
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::string init_lora_weights;  // "pissa_niter_16", …; empty: PEFT's own, written as true
  /// By PEFT's key, "base_model.model." + module path + one of
  ///   .lora_A.weight [r, in]   .lora_B.weight [out, r]   .lora_magnitude_vector [out]
  ///   .weight                  of a module to save
  std::map<std::string, AdapterTensor> tensors;
};

/// The text of adapter_config.json.
std::string adapter_config_text(const TrainedAdapter& adapter);

/// Writes both files into `folder` (created if absent), each atomically, the config last: a folder that has
/// it is complete. Where an older adapter is replaced in place, readers may see its config with the new
/// weights for a moment; write a new folder and rename it to avoid that. Throws kIo naming the file.
void write_adapter(const std::filesystem::path& folder, const TrainedAdapter& adapter);

}  // namespace polylora
