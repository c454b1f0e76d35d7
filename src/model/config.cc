#include "model/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>

#include "base/error.h"

namespace polylora {
namespace {

using nlohmann::json;

/// What distinguishes one Llama-like architecture from another where config.json is silent. A new
/// architecture of this kind is a new row.
struct ArchitectureRow {
  std::string_view model_type;
  bool reads_attention_bias;    // config key attention_bias governs q, k, v and o
  bool reads_mlp_bias;          // config key mlp_bias
  bool default_tie_embeddings;  // when tie_word_embeddings is absent
  double default_rope_theta;
  float default_rms_norm_eps;
};

constexpr ArchitectureRow kArchitectures[] = {
    {"llama", true, true, false, 10000.0, 1e-6f},
};

/// Reads typed keys out of one JSON object and says which file and key is wrong.
class ConfigReader {
 public:
  ConfigReader(const json& object, std::string_view where) : object_(object), where_(where) {}

  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  int positive_int(const char* key, std::optional<int> fallback = {}) const {
    if (!has(key)) {
      if (fallback) return *fallback;
      fail(ErrorCode::kDataCorrupt, "{}: the key '{}' is missing", where_, key);
    }
    const json& value = object_.at(key);
    constexpr int64_t kLimit = 1 << 30;  // keeps every product of two widths inside int64
    if (!value.is_number_integer() || value.get<int64_t>() <= 0 || value.get<int64_t>() > kLimit) {
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a positive integer below 2^30", where_, key);
    }
    return value.get<int>();
  }

  double positive_number(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    const json& value = object_.at(key);
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a positive number", where_, key);
    }
    return value.get<double>();
  }

  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_boolean())
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be true or false", where_, key);
    return object_.at(key).get<bool>();
  }

  std::string text(const char* key, std::string fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_string()) fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a string", where_, key);
    return object_.at(key).get<std::string>();
  }

  const json* object(const char* key) const {
    if (!has(key)) return nullptr;
    if (!object_.at(key).is_object())
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an object", where_, key);
    return &object_.at(key);
  }

  const json& raw(const char* key) const { return object_.at(key); }

 private:
  const json& object_;
  std::string_view where_;
};

const ArchitectureRow& find_architecture(const std::string& model_type, std::string_view where) {
  for (const ArchitectureRow& row : kArchitectures) {
    if (row.model_type == model_type) return row;
  }
  fail(ErrorCode::kUnsupported, "{}: model_type '{}' is not supported; known: {}", where, model_type,
       fmt::join(known_model_types(), ", "));
}

RopeScaling parse_rope_scaling(const json& object, std::string_view where) {
  const ConfigReader reader(object, where);
  const std::string type = reader.text("rope_type", reader.text("type", "default"));
  RopeScaling scaling;
  if (type == "default") return scaling;
  scaling.factor = reader.positive_number("factor", 1.0);
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_freq_factor = reader.positive_number("low_freq_factor", 1.0);
    scaling.high_freq_factor = reader.positive_number("high_freq_factor", 4.0);
    scaling.original_max_position_embeddings = reader.positive_int("original_max_position_embeddings", 8192);
  } else {
    fail(ErrorCode::kUnsupported, "{}: rope scaling '{}' is not supported; known: default, linear, llama3",
         where, type);
  }
  return scaling;
}

/// transformers 5 writes rope_parameters {rope_theta, rope_type, …}; before that rope_theta stood beside
/// rope_scaling.
void parse_rope(const ConfigReader& reader, const ArchitectureRow& row, std::string_view where,
                ModelConfig& config) {
  config.rope_theta = reader.positive_number("rope_theta", row.default_rope_theta);
  if (const json* scaling = reader.object("rope_scaling"))
    config.rope_scaling = parse_rope_scaling(*scaling, where);
  if (const json* rope = reader.object("rope_parameters")) {
    config.rope_theta = ConfigReader(*rope, where).positive_number("rope_theta", config.rope_theta);
    config.rope_scaling = parse_rope_scaling(*rope, where);
  }
}

DType parse_dtype(const ConfigReader& reader) {
  const std::string name = reader.text("dtype", reader.text("torch_dtype", "bfloat16"));
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  return DType::kBf16;
}

std::vector<int> parse_token_ids(const ConfigReader& reader, const char* key, std::string_view where) {
  std::vector<int> ids;
  if (!reader.has(key)) return ids;
  const json& value = reader.raw(key);
  const json list = value.is_array() ? value : json::array({value});
  for (const json& id : list) {
    if (!id.is_number_integer()) fail(ErrorCode::kDataCorrupt, "{}: '{}' must hold token ids", where, key);
    ids.push_back(id.get<int>());
  }
  return ids;
}

void check_consistency(const ModelConfig& config, std::string_view where) {
  if (config.num_heads % config.num_kv_heads != 0) {
    fail(ErrorCode::kDataCorrupt, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
         where, config.num_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0)
    fail(ErrorCode::kDataCorrupt, "{}: head_dim {} is odd", where, config.head_dim);
  const int64_t widest = int64_t{config.num_heads} * config.head_dim;
  if (widest > std::numeric_limits<int>::max() / 4 ||
      config.intermediate_size > std::numeric_limits<int>::max() / 4) {
    fail(ErrorCode::kDataCorrupt, "{}: the layer widths are too large", where);
  }
}

/// inv_freq of transformers' ROPE_INIT_FUNCTIONS, in float32 as there.
std::vector<float> rope_frequencies(const ModelConfig& config) {
  const int half = config.head_dim / 2;
  std::vector<float> frequencies(static_cast<size_t>(half));
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    frequencies[static_cast<size_t>(i)] = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
  }
  const RopeScaling& scaling = config.rope_scaling;
  const auto factor = static_cast<float>(scaling.factor);
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    for (float& frequency : frequencies) frequency /= factor;
  }
  if (scaling.kind == RopeScaling::Kind::kLlama3) {
    const auto original = static_cast<float>(scaling.original_max_position_embeddings);
    const auto low = static_cast<float>(scaling.low_freq_factor),
               high = static_cast<float>(scaling.high_freq_factor);
    for (float& frequency : frequencies) {
      const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
      if (wavelength > original / low) {
        frequency /= factor;
      } else if (wavelength >= original / high) {
        const float smooth = (original / wavelength - low) / (high - low);
        frequency = (1.0f - smooth) * frequency / factor + smooth * frequency;
      }
    }
  }
  return frequencies;
}

}  // namespace

std::vector<std::string_view> known_model_types() {
  std::vector<std::string_view> names;
  for (const ArchitectureRow& row : kArchitectures) names.push_back(row.model_type);
  return names;
}

ModelConfig parse_model_config(const json& hf_config, std::string_view where) {
  if (!hf_config.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", where);
  const ConfigReader reader(hf_config, where);
  ModelConfig config;
  config.model_type = reader.text("model_type", "");
  const ArchitectureRow& row = find_architecture(config.model_type, where);

  config.hidden_size = reader.positive_int("hidden_size");
  config.intermediate_size = reader.positive_int("intermediate_size");
  config.num_layers = reader.positive_int("num_hidden_layers");
  config.num_heads = reader.positive_int("num_attention_heads");
  config.num_kv_heads = reader.positive_int("num_key_value_heads", config.num_heads);
  config.head_dim = reader.positive_int("head_dim", std::max(1, config.hidden_size / config.num_heads));
  config.vocab_size = reader.positive_int("vocab_size");
  config.max_position_embeddings = reader.positive_int("max_position_embeddings", 2048);
  config.rms_norm_eps = static_cast<float>(reader.positive_number("rms_norm_eps", row.default_rms_norm_eps));
  parse_rope(reader, row, where, config);
  if (const std::string act = reader.text("hidden_act", "silu"); act != "silu") {
    fail(ErrorCode::kUnsupported, "{}: hidden_act '{}' is not supported; known: silu", where, act);
  }
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", row.default_tie_embeddings);
  config.qkv_bias = config.o_bias = row.reads_attention_bias && reader.boolean("attention_bias", false);
  config.mlp_bias = row.reads_mlp_bias && reader.boolean("mlp_bias", false);
  config.dtype = parse_dtype(reader);
  const std::vector<int> bos = parse_token_ids(reader, "bos_token_id", where);
  config.bos_token_id = bos.empty() ? -1 : bos.front();
  config.eos_token_ids = parse_token_ids(reader, "eos_token_id", where);
  check_consistency(config, where);
  return config;
}

std::vector<float> make_rope_table(const ModelConfig& config, int positions) {
  const std::vector<float> frequencies = rope_frequencies(config);
  const size_t half = frequencies.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * half);
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    float* row = table.data() + p * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      row[i] = std::cos(angle);
      row[half + i] = std::sin(angle);
    }
  }
  return table;
}

}  // namespace polylora
