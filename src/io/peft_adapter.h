// Adapters as merging reads them: every kind of LoRA that PEFT writes, by module path and without a model.
// Serving reads them with io/adapter_file.h, which checks against a model and packs.
#pragma once

#include <deque>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/adapter_source.h"

namespace polylora {

/// What the adapter holds for one module; null: nothing. Shapes are the file's own, apart from that A and B
/// have the rank that the config says.
struct PeftModule {
  const TensorView* a = nullptr;           // [rank, in]; of an embedding [rank, vocabulary]
  const TensorView* b = nullptr;           // [out, rank]; of an embedding [width, rank]
  const TensorView* b_bias = nullptr;      // [out] (lora_bias)
  const TensorView* magnitude = nullptr;   // [out] (DoRA)
  const TensorView* new_weight = nullptr;  // instead of the base's (modules_to_save, base_layer)
  const TensorView* new_bias = nullptr;    // instead of the base's (bias: lora_only, all)
  bool is_embedding = false;
  int64_t rank = 0;
  float scale = 1.0f;  // alpha/r, or alpha/sqrt(r) with rsLoRA, after rank_pattern/alpha_pattern
};

class PeftAdapter {
 public:
  /// Opens the adapter and reads all values once: NaN and infinity are kDataCorrupt. Refused with what, where
  /// and why: what open_adapter refuses, A without B, a rank that contradicts the config, no tensors at all.
  /// `head_dim`: see open_adapter.
  PeftAdapter(const std::filesystem::path& path, int64_t head_dim);

  const std::filesystem::path& path() const { return source_.path; }
  const AdapterConfig& config() const { return source_.config; }
  /// By module path: "model.layers.0.self_attn.q_proj".
  const std::map<std::string, PeftModule>& modules() const { return modules_; }

 private:
  void sort_in(const AdapterPart& part);
  void finish(const std::string& path, PeftModule& module) const;

  AdapterSource source_;
  std::deque<TensorView> views_;              // what the modules point to
  std::deque<std::vector<std::byte>> rooms_;  // values that the file holds in another layout
  std::map<std::string, PeftModule> modules_;
};

}  // namespace polylora
