// PEFT adapter folders: adapter_config.json + adapter_model.safetensors, as PEFT and LLaMA-Factory write
// them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/adapter.h"
#include "model/config.h"
#include "ops/backend.h"

namespace polylora {

struct AdapterConfig;

/// One LoRA pair found in the file, resolved against the model.
struct AdapterPair {
  int layer = 0;
  int module = 0;  // index into linear_modules()
  int64_t rank = 0;
  float scale = 1.0f;  // alpha/r, or alpha/sqrt(r) with rsLoRA, after rank_pattern/alpha_pattern
  TensorView a;        // [rank, k]
  TensorView b;        // [n, rank]
};

/// An adapter folder, opened and checked against a model's shapes. Opening reads config and header only.
/// Refused with what, where and why: a peft_type other than LORA, features not supported yet (DoRA,
/// modules_to_save, bias, …, named), a tensor that matches no module, a wrong shape, an A without B, a rank
/// that contradicts the config, zero matches.
class AdapterFile {
 public:
  AdapterFile(const std::filesystem::path& folder, const ModelConfig& config);

  const std::filesystem::path& folder() const { return folder_; }
  const std::vector<AdapterPair>& pairs() const { return pairs_; }
  const std::string& base_model_name() const { return base_model_name_; }
  int64_t max_rank() const { return max_rank_; }

  /// Bytes the packed adapter will take in `dtype` (an estimate good to a few percent, for budgets).
  size_t packed_bytes(DType dtype) const;

  /// Hash of config and tensor bytes: the identity of this generation. Reads the whole file.
  uint64_t content_hash() const;

  /// Reads, checks for NaN/Inf (kDataCorrupt names the tensor) and packs, on a few short-lived threads. Any
  /// thread.
  std::unique_ptr<Adapter> load(Backend& backend, DType dtype) const;

 private:
  struct SitePairs {  // those of one fused linear
    int layer;
    Site site;
    std::span<const AdapterPair> pairs;
  };

  void resolve_pairs(const AdapterConfig& peft);
  std::vector<SitePairs> pairs_by_site() const;
  LoraSource lora_source(std::span<const AdapterPair> pairs_of_site) const;

  std::filesystem::path folder_;
  std::string config_text_;
  std::string base_model_name_;
  int64_t max_rank_ = 0;
  std::vector<AdapterPair> pairs_;
  std::unique_ptr<SafetensorsFile> tensors_;
  ModelConfig config_;
};

}  // namespace polylora
