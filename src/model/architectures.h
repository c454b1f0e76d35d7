// The architectures: one row of flags each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace polylora {

/// Which layers have the window that config.json states, where it has no layer_types.
enum class Windows : uint8_t {
  kNone,           // there is no such key
  kAll,            // every layer
  kFromLayer,      // from max_window_layers, if use_sliding_window
  kEverySecond,    // layers 0, 2, 4, …
  kAllButEveryNth  // layer i is full when i + 1 is a multiple of sliding_window_pattern
};

/// Names of a mixture of experts in config.json and in checkpoints, where modules are called
/// <block>.gate and <block>.experts.<n>.<gate, up or down>.
struct MixtureNames {
  std::string_view block;  // "mlp"; empty: the feed-forward is one
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";
  const char* count_key = "num_experts";
  const char* width_key = "intermediate_size";  // of one expert
  int default_count = 0, default_per_token = 0;
  int default_width = 0;       // 0: must be stated
  bool may_normalise = false;  // norm_topk_prob decides, off when absent; else the weights always sum to 1
};

/// What distinguishes one architecture from another where config.json is silent: the defaults are Llama's. A
/// new architecture of this kind is a new row.
struct Architecture {
  std::string_view model_type;
  std::string_view families;          // for people: "Qwen2, Qwen2.5"
  bool reads_attention_bias = false;  // config key attention_bias governs q, k, v and o
  bool reads_mlp_bias = false;        // config key mlp_bias
  bool has_qkv_bias = false;          // q, k and v always have biases
  bool has_qk_norm = false;
  bool has_output_norms = false;
  bool has_fused_projections = false;
  bool is_gemma = false;  // norms store gain - 1, embeddings are scaled, query_pre_attn_scalar
  std::string_view default_activation = "silu";
  bool default_tie_embeddings = false;  // when tie_word_embeddings is absent
  double default_rope_theta = 10000.0;
  double default_local_rope_theta = 0.0;  // > 0: windowed layers have rope_local_base_freq
  float default_rms_norm_eps = 1e-6f;
  int default_head_dim = 0;  // 0: the hidden width shared out evenly
  Windows windows = Windows::kNone;
  int default_window = 0;  // when sliding_window is absent; 0: none
  float default_attention_softcap = 0.0f;
  float default_final_softcap = 0.0f;
  MixtureNames experts = {};
};

std::span<const Architecture> architectures();

/// The rows as a Markdown table; docs/models.md holds it.
std::string architecture_table();

}  // namespace polylora
