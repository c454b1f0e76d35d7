// The weights of a base model, and the one list that names every tensor of it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "ops/weight.h"

namespace polylora {

/// The four linears of a layer as they are stored: q, k, v fused; gate and up fused.
enum class Site : uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int kSiteCount = 4;
inline constexpr Site kSites[kSiteCount] = {Site::kQkv, Site::kO, Site::kGateUp, Site::kDown};

/// A linear module under the name that checkpoints and PEFT's target_modules use: rows
/// [n_begin, n_begin + n_count) of a fused linear with input width k.
struct LinearModule {
  std::string_view path;  // within a layer: "self_attn.q_proj"
  std::string_view name;  // "q_proj"
  Site site = Site::kQkv;
  int64_t n_begin = 0;
  int64_t n_count = 0;
  int64_t k = 0;
  bool has_bias = false;
};

/// The modules of every layer, in checkpoint order: q, k, v, o, gate, up, down, where Phi-3 has qkv and
/// gate_up.
std::vector<LinearModule> linear_modules(const ModelConfig& config);

/// Output width of a fused linear.
int64_t site_rows(const ModelConfig& config, Site site);

/// "model.layers.3.self_attn.q_proj", as PEFT matches target_modules and patterns against.
std::string module_path(int layer, const LinearModule& module);

/// The norms of a layer, in the order in which they are computed. Every model has kInput and kMlp.
enum class Norm : uint8_t {
  kInput,            // [D] before q, k, v
  kQuery,            // [E] on every head of q (ModelConfig::qk_norm)
  kKey,              // [E] … and of k
  kAttentionOutput,  // [D] on what attention adds to the residual stream (ModelConfig::output_norms)
  kMlp,              // [D] before gate and up
  kMlpOutput         // [D] on what the feed-forward adds (ModelConfig::output_norms)
};
inline constexpr int kNormCount = 6;

/// One tensor of an HF checkpoint of this model.
struct TensorSpec {
  enum class Role : uint8_t { kEmbedding, kNorm, kLinearWeight, kLinearBias, kFinalNorm, kLmHead };
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  Role role = Role::kEmbedding;
  int layer = -1;
  int module = -1;   // index into linear_modules, for kLinear*; a Norm, for kNorm
  int64_t rows = 0;  // 1-D tensors: rows = length, cols = 0
  int64_t cols = 0;
};

/// A gain, to which ModelConfig::norm_offset applies.
inline bool is_norm(const TensorSpec& spec) {
  return spec.role == TensorSpec::Role::kNorm || spec.role == TensorSpec::Role::kFinalNorm;
}

/// Calls fn for every tensor, in checkpoint order. Loading, merging and exporting all walk this list.
void for_each_tensor(const ModelConfig& config, const std::function<void(const TensorSpec&)>& fn);

struct Linear {
  std::unique_ptr<Weight> weight;
  std::vector<float> bias;  // empty: none
};

struct Layer {
  std::array<Linear, kSiteCount> linears;
  std::array<std::vector<float>, kNormCount> norms;  // gains; empty where the model has none

  const Linear& at(Site site) const { return linears[static_cast<size_t>(site)]; }
  Linear& at(Site site) { return linears[static_cast<size_t>(site)]; }
  const std::vector<float>& norm(Norm norm) const { return norms[static_cast<size_t>(norm)]; }
  std::vector<float>& norm(Norm norm) { return norms[static_cast<size_t>(norm)]; }
};

/// Immutable after loading; shared between threads.
struct Model {
  ModelConfig config;
  std::unique_ptr<Weight> embedding;  // [V, D]
  std::unique_ptr<Weight> lm_head;    // [V, D]; null when tied to the embedding
  std::vector<float> embedding_gain;  // [D] on token embeddings; empty: none
  std::vector<float> final_norm;
  std::vector<Layer> layers;
  std::string formats;  // for people: how its matrices are held, "Q4_K as q4, Q6_K as q8"

  const Weight& output_embedding() const { return lm_head ? *lm_head : *embedding; }
  size_t bytes() const;
};

}  // namespace polylora
