// What a model is, read from an HF config.json. An architecture is a row of flags, never a file of its own.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "ops/backend.h"

namespace polylora {

/// How rotary frequencies are stretched beyond the trained context (transformers' modeling_rope_utils.py).
struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                 // llama3
  double high_freq_factor = 4.0;                // llama3
  int original_max_position_embeddings = 8192;  // llama3
};

struct ModelConfig {
  std::string model_type;     // "llama"
  int hidden_size = 0;        // D
  int intermediate_size = 0;  // F
  int num_layers = 0;
  int num_heads = 0;     // H
  int num_kv_heads = 0;  // G, divides H
  int head_dim = 0;      // E, even; not always hidden_size / num_heads
  int vocab_size = 0;    // V
  int max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  GluActivation activation = GluActivation::kSilu;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  DType dtype = DType::kBf16;  // what the checkpoint says it is stored in
  int bos_token_id = -1;       // -1: none
  std::vector<int> eos_token_ids;

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

/// Radians per position of the E/2 rotary pairs, after rope scaling.
std::vector<float> rope_frequencies(const ModelConfig& config);

/// cos/sin for positions 0..positions-1, laid out as RopeTable wants: [positions, E].
std::vector<float> make_rope_table(const ModelConfig& config, int positions);

}  // namespace polylora
