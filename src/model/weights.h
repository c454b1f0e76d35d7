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

/// The linears of a layer as they are stored: q, k, v fused; o; gate and up fused; down. A mixture of experts
/// has a router, and the last two once per expert: these are expert 0's, gate_up_of() and down_of() name all.
enum class Site : int16_t { kQkv, kO, kRouter, kGateUp, kDown };
constexpr Site gate_up_of(int expert) {
  return static_cast<Site>(static_cast<int>(Site::kGateUp) + 2 * expert);
}
constexpr Site down_of(int expert) {
  return static_cast<Site>(static_cast<int>(Site::kDown) + 2 * expert);
}

/// Those that the layers of a model have, ascending.
std::vector<Site> sites(const ModelConfig& config);

/// One more than the highest of them: the length of an array that a site indexes.
size_t site_count(const ModelConfig& config);

/// A linear module under the name that checkpoints and PEFT's target_modules use: rows
/// [n_begin, n_begin + n_count) of a fused linear with input width k.
struct LinearModule {
  std::string path;  // within a layer: "self_attn.q_proj"
  std::string name;  // "q_proj"
  Site site = Site::kQkv;
  int64_t n_begin = 0;
  int64_t n_count = 0;
  int64_t k = 0;
  bool has_bias = false;
  int expert = -1;  // that it belongs to; -1: every token uses it
};

/// The modules of every layer, in checkpoint order: q, k, v, o, gate, up, down, where Phi-3 has qkv and
/// gate_up; with experts the router, then gate, up and down of each.
std::vector<LinearModule> linear_modules(const ModelConfig& config);

/// Whether "all" selects it: transformers (from 5 on) holds experts and routers as plain parameters, which
/// PEFT and LLaMA-Factory do not count among the linear layers.
inline bool is_linear_layer(const LinearModule& module) {
  return module.expert < 0 && module.site != Site::kRouter;
}

/// The names of linear_modules(), each once.
std::vector<std::string> module_names(const ModelConfig& config);

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
  Site site = Site::kQkv;  // of the module
  int expert = -1;         // that it belongs to; -1: none
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
  std::vector<Linear> linears;                       // by Site; kRouter is empty where there are no experts
  std::array<std::vector<float>, kNormCount> norms;  // gains; empty where the model has none

  const Linear& at(Site site) const { return linears[static_cast<size_t>(site)]; }
  Linear& at(Site site) { return linears[static_cast<size_t>(site)]; }
  const std::vector<float>& norm(Norm norm) const { return norms[static_cast<size_t>(norm)]; }
  std::vector<float>& norm(Norm norm) { return norms[static_cast<size_t>(norm)]; }
};

/// The layers of a model, without weights.
std::vector<Layer> make_layers(const ModelConfig& config);

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
