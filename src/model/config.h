// What a model is, read from an HF config.json. An architecture is a row of flags, never a file of its own.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "model/architectures.h"
#include "ops/backend.h"

namespace polylora {

/// How rotary frequencies are stretched beyond the trained context (transformers' modeling_rope_utils.py).
struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kLlama3, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1.0;                          // linear, llama3
  double low_freq_factor = 1.0;                 // llama3
  double high_freq_factor = 4.0;                // llama3
  int original_max_position_embeddings = 8192;  // llama3, longrope
  std::vector<float> short_factor;              // longrope: divisors [E/2] up to the original context
  std::vector<float> long_factor;               // longrope: … and beyond it
  double attention_factor = 1.0;                // longrope: on cos and sin
};

/// A feed-forward of several, of which a router picks some for each token.
struct ExpertsConfig {
  int count = 0;  // 0: one feed-forward, no router
  int per_token = 0;
  bool normalises = true;  // the weights of a token's experts are made to sum to 1
  MixtureNames names;

  /// How much of the feed-forwards a token uses.
  double share() const { return count > 0 ? static_cast<double>(per_token) / count : 1.0; }
};

struct ModelConfig {
  std::string model_type;     // "llama"
  int hidden_size = 0;        // D
  int intermediate_size = 0;  // F, of one expert
  int num_layers = 0;
  int num_heads = 0;     // H
  int num_kv_heads = 0;  // G, divides H
  int head_dim = 0;      // E, even; not always hidden_size / num_heads
  int vocab_size = 0;    // V
  int max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double local_rope_theta = 0.0;       // > 0: of layers with a window, which then are not scaled (Gemma 3)
  std::vector<int> windows;            // [layer] AttentionParams::window; empty: every layer sees everything
  float query_pre_attn_scalar = 0.0f;  // > 0: instead of head_dim in attention_scale()
  float attention_softcap = 0.0f;      // AttentionParams::softcap
  float final_logit_softcap = 0.0f;    // > 0: logits = softcap * tanh(logits / softcap)
  float embedding_scale = 1.0f;        // what token embeddings are multiplied with
  float norm_offset = 0.0f;            // gain = stored weight + this (1 for Gemma's HF checkpoints)
  GluActivation activation = GluActivation::kSilu;
  bool qk_norm = false;            // a norm on every head of q and k before rope
  bool output_norms = false;       // a norm on what attention and feed-forward add to the residual stream
  bool fused_projections = false;  // the checkpoint has qkv_proj and gate_up_proj (Phi-3)
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  ExpertsConfig experts;
  DType dtype = DType::kBf16;  // what the checkpoint says it is stored in
  int bos_token_id = -1;       // -1: none
  std::vector<int> eos_token_ids;

  bool has_experts() const { return experts.count > 0; }
  /// Rows that a layer's feed-forwards see for `rows` of a batch.
  int64_t feed_forward_rows(int64_t rows) const { return has_experts() ? rows * experts.per_token : rows; }
  int window(int layer) const { return windows.empty() ? 0 : windows[static_cast<size_t>(layer)]; }
  /// AttentionParams::scale.
  float attention_scale() const {
    return 1.0f / std::sqrt(query_pre_attn_scalar > 0 ? query_pre_attn_scalar : static_cast<float>(head_dim));
  }
  bool has_local_rope(int layer) const { return local_rope_theta > 0.0 && window(layer) > 0; }
  int q_size() const { return num_heads * head_dim; }
  int kv_size() const { return num_kv_heads * head_dim; }
  int qkv_size() const { return q_size() + 2 * kv_size(); }
};

/// Reads both the older keys (rope_theta, rope_scaling, torch_dtype) and the newer (rope_parameters, dtype).
/// Throws kUnsupported with the list of known architectures for an unknown model_type, kDataCorrupt for a
/// missing or senseless value; messages name `where` (the file) and the key.
ModelConfig parse_model_config(const nlohmann::json& hf_config, std::string_view where);

/// model_type values that parse_model_config takes.
std::vector<std::string_view> known_model_types();

/// The value of a key such as eos_token_id: an id, a list of ids, or null. Negative ids mean "none" and are
/// left out. `where` names file and key.
std::vector<int> parse_token_ids(const nlohmann::json& value, std::string_view where);

/// Radians per position of the E/2 rotary pairs, after rope scaling, for a context of `positions` tokens.
///
/// longrope has two sets of divisors. transformers takes the one that a sequence's present length asks for,
/// so that the keys of a long sequence's start would have to change while it grows. Here, as in vLLM, the
/// longest context that is served or trained on decides, once and for all sequences.
std::vector<float> rope_frequencies(const ModelConfig& config, int positions = 1);

/// cos/sin for positions 0..positions-1, laid out as RopeTable wants: [positions, E]. `local`: of the layers
/// for which has_local_rope.
std::vector<float> make_rope_table(const ModelConfig& config, int positions, bool local = false);

}  // namespace polylora
