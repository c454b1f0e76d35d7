#include "model/config.h"

#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "model/architectures.h"
#include "model/config_reader.h"
#include "model/rope_parser.h"

namespace polylora {
namespace {

using nlohmann::json;

const Architecture& find_architecture(const std::string& model_type, std::string_view where) {
  for (const Architecture& row : architectures()) {
    if (row.model_type == model_type) return row;
  }
  fail(ErrorCode::kUnsupported, "{}: model_type '{}' is not supported; known: {}", where, model_type,
       fmt::join(known_model_types(), ", "));
}

bool is_sliding(const ConfigReader& reader, Windows windows, int layer, int num_layers) {
  switch (windows) {
    case Windows::kAll:
      return true;
    case Windows::kFromLayer:
      return layer >= reader.integer("max_window_layers", 0, kMaxLayers, num_layers);
    case Windows::kEverySecond:
      return layer % 2 == 0;
    case Windows::kAllButEveryNth: {
      const char* key =
          reader.has("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
      return (layer + 1) % reader.positive_int(key, 6, kMaxLayers) != 0;
    }
    case Windows::kNone:
      break;
  }
  return false;
}

void parse_windows(const ConfigReader& reader, const Architecture& row, ModelConfig& config) {
  if (row.windows == Windows::kNone) return;
  if (row.windows == Windows::kFromLayer && !reader.boolean("use_sliding_window", false)) return;
  const int window = reader.mentions("sliding_window") && !reader.has("sliding_window") ? 0
                     : row.default_window > 0 || reader.has("sliding_window")
                         ? reader.positive_int("sliding_window", row.default_window)
                         : 0;
  if (window == 0) return;
  const auto listed = reader.sliding_layers(static_cast<size_t>(config.num_layers));
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const bool slides = listed ? (*listed)[static_cast<size_t>(layer)]
                               : is_sliding(reader, row.windows, layer, config.num_layers);
    config.windows.push_back(slides ? window : 0);
  }
}

GluActivation parse_activation(const ConfigReader& reader, const Architecture& row, std::string_view where) {
  const std::string fallback(row.default_activation);
  const std::string name =
      row.is_gemma ? reader.text("hidden_activation", fallback) : reader.text("hidden_act", fallback);
  if (name == "silu") return GluActivation::kSilu;
  if (name == "gelu_pytorch_tanh") return GluActivation::kGeluTanh;
  fail(ErrorCode::kUnsupported, "{}: hidden_act '{}' is not supported; known: silu, gelu_pytorch_tanh", where,
       name);
}

/// What attention, norms and embedding do beyond Llama's.
void parse_variations(const ConfigReader& reader, const Architecture& row, ModelConfig& config) {
  if (row.is_gemma) {
    config.query_pre_attn_scalar = static_cast<float>(reader.positive_number("query_pre_attn_scalar", 256.0));
    config.attention_softcap = reader.number_or_null("attn_logit_softcapping", row.default_attention_softcap);
    config.final_logit_softcap = reader.number_or_null("final_logit_softcapping", row.default_final_softcap);
    config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
    config.norm_offset = 1.0f;
  }
  config.qk_norm = row.has_qk_norm;
  config.output_norms = row.has_output_norms;
  config.fused_projections = row.has_fused_projections;
}

int parse_feed_forward_width(const ConfigReader& reader, const MixtureNames& experts) {
  if (experts.default_width > 0) return reader.positive_int(experts.width_key, experts.default_width);
  return reader.positive_int(experts.width_key);
}

void parse_experts(const ConfigReader& reader, const MixtureNames& names, std::string_view where,
                   ModelConfig& config) {
  if (names.block.empty()) return;
  ExpertsConfig& experts = config.experts;
  experts.names = names;
  experts.count = reader.positive_int(names.count_key, names.default_count, kMaxExperts);
  experts.per_token = reader.positive_int("num_experts_per_tok", names.default_per_token, experts.count);
  experts.normalises = !names.may_normalise || reader.boolean("norm_topk_prob", false);
  if (reader.positive_int("decoder_sparse_step", 1) != 1 || reader.has_elements("mlp_only_layers")) {
    fail(ErrorCode::kUnsupported,
         "{}: layers without experts (decoder_sparse_step, mlp_only_layers) are not supported in a mixture",
         where);
  }
}

DType parse_dtype(const ConfigReader& reader) {
  const std::string name = reader.text("dtype", reader.text("torch_dtype", "bfloat16"));
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  return DType::kBf16;
}

/// As transformers does: an explicit head_dim, the architecture's, else the hidden width shared out evenly.
int parse_head_dim(const ConfigReader& reader, const Architecture& row, const ModelConfig& config,
                   std::string_view where) {
  if (row.default_head_dim > 0) return reader.positive_int("head_dim", row.default_head_dim);
  if (!reader.has("head_dim") && config.hidden_size % config.num_heads != 0) {
    fail(ErrorCode::kDataCorrupt,
         "{}: hidden_size {} is not a multiple of num_attention_heads {} and 'head_dim' is not given", where,
         config.hidden_size, config.num_heads);
  }
  return reader.positive_int("head_dim", config.hidden_size / config.num_heads);
}

void check_consistency(const ModelConfig& config, std::string_view where) {
  if (config.num_heads % config.num_kv_heads != 0) {
    fail(ErrorCode::kDataCorrupt, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
         where, config.num_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0)
    fail(ErrorCode::kDataCorrupt, "{}: head_dim {} is odd", where, config.head_dim);
  if (config.num_layers * config.experts.count > kMaxFeedForwards) {
    fail(ErrorCode::kDataCorrupt, "{}: num_hidden_layers {} x {} experts is too much", where,
         config.num_layers, config.experts.count);
  }
  if (int64_t{config.num_heads} * config.head_dim > kMaxWidth) {
    fail(ErrorCode::kDataCorrupt, "{}: num_attention_heads {} x head_dim {} is too large", where,
         config.num_heads, config.head_dim);
  }
}

}  // namespace

std::vector<std::string_view> known_model_types() {
  std::vector<std::string_view> names;
  for (const Architecture& row : architectures()) names.push_back(row.model_type);
  return names;
}

std::vector<int> parse_token_ids(const json& value, std::string_view where) {
  std::vector<int> ids;
  const auto add = [&](const json& id) {
    if (!id.is_number_integer())
      fail(ErrorCode::kDataCorrupt, "{} must be a token id or a list of them", where);
    const auto number = id.get<int64_t>();
    if (number >= 0 && number <= std::numeric_limits<int>::max()) ids.push_back(static_cast<int>(number));
  };
  if (value.is_null()) return ids;
  if (!value.is_array()) {
    add(value);
    return ids;
  }
  for (const json& id : value) add(id);
  return ids;
}

ModelConfig parse_model_config(const json& hf_config, std::string_view where) {
  if (!hf_config.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", where);
  const ConfigReader reader(hf_config, where);
  ModelConfig config;
  config.model_type = reader.text("model_type", "");
  const Architecture& row = find_architecture(config.model_type, where);

  config.hidden_size = reader.positive_int("hidden_size");
  config.intermediate_size = parse_feed_forward_width(reader, row.experts);
  config.num_layers = reader.positive_int("num_hidden_layers", {}, kMaxLayers);
  config.num_heads = reader.positive_int("num_attention_heads");
  config.num_kv_heads = reader.positive_int("num_key_value_heads", config.num_heads);
  config.head_dim = parse_head_dim(reader, row, config, where);
  config.vocab_size = reader.positive_int("vocab_size");
  config.max_position_embeddings = reader.positive_int("max_position_embeddings", 2048);
  config.rms_norm_eps = static_cast<float>(reader.positive_number("rms_norm_eps", row.default_rms_norm_eps));
  parse_rope(reader, row, where, config);
  parse_windows(reader, row, config);
  parse_variations(reader, row, config);
  parse_experts(reader, row.experts, where, config);
  config.activation = parse_activation(reader, row, where);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", row.default_tie_embeddings);
  config.qkv_bias = config.o_bias = row.reads_attention_bias && reader.boolean("attention_bias", false);
  config.qkv_bias = config.qkv_bias || row.has_qkv_bias;
  config.mlp_bias = row.reads_mlp_bias && reader.boolean("mlp_bias", false);
  config.dtype = parse_dtype(reader);
  const std::vector<int> bos = reader.token_ids("bos_token_id");
  config.bos_token_id = bos.empty() ? -1 : bos.front();
  config.eos_token_ids = reader.token_ids("eos_token_id");
  check_consistency(config, where);
  return config;
}

}  // namespace polylora
