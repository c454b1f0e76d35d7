#include "model/config.h"

#include <fmt/ranges.h>

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

constexpr int kMaxWidth = 1 << 28;  // keeps the fused widths inside int and every matrix inside int64
constexpr int kMaxLayers = 4096;    // bounds what a hostile config makes the loader allocate

/// Reads typed keys out of one JSON object and says which file and key is wrong.
class ConfigReader {
 public:
  ConfigReader(const json& object, std::string_view where) : object_(object), where_(where) {}

  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  /// From 1 to `limit`; required unless there is a fallback.
  int positive_int(const char* key, std::optional<int> fallback = {}, int limit = kMaxWidth) const {
    if (!has(key)) return or_missing(key, fallback);
    const json& value = object_.at(key);
    if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > limit) {
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an integer from 1 to {}", where_, key, limit);
    }
    return value.get<int>();
  }

  /// Positive and representable in f32, in which everything is computed; required unless there is a fallback.
  double positive_number(const char* key, std::optional<double> fallback = {}) const {
    if (!has(key)) return or_missing(key, fallback);
    const json& value = object_.at(key);
    const float narrowed = value.is_number() ? static_cast<float>(value.get<double>()) : 0.0f;
    if (!(narrowed > 0) || !std::isfinite(narrowed)) {
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

  std::vector<int> token_ids(const char* key) const {
    return has(key) ? parse_token_ids(object_.at(key), fmt::format("{}: '{}'", where_, key))
                    : std::vector<int>();
  }

 private:
  template <typename T>
  T or_missing(const char* key, std::optional<T> fallback) const {
    if (fallback) return *fallback;
    fail(ErrorCode::kDataCorrupt, "{}: the key '{}' is missing", where_, key);
  }

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
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.factor = reader.positive_number("factor");
    return scaling;
  }
  if (type != "llama3") {
    fail(ErrorCode::kUnsupported, "{}: rope scaling '{}' is not supported; known: default, linear, llama3",
         where, type);
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = reader.positive_number("factor");
  scaling.low_freq_factor = reader.positive_number("low_freq_factor", 1.0);
  scaling.high_freq_factor = reader.positive_number("high_freq_factor", 4.0);
  scaling.original_max_position_embeddings = reader.positive_int("original_max_position_embeddings", 8192);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    fail(ErrorCode::kDataCorrupt, "{}: 'high_freq_factor' must be above 'low_freq_factor'", where);
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

/// As transformers does: an explicit head_dim, else the hidden width shared out evenly.
int parse_head_dim(const ConfigReader& reader, const ModelConfig& config, std::string_view where) {
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
  if (int64_t{config.num_heads} * config.head_dim > kMaxWidth) {
    fail(ErrorCode::kDataCorrupt, "{}: num_attention_heads {} x head_dim {} is too large", where,
         config.num_heads, config.head_dim);
  }
}

/// transformers' _compute_llama3_parameters for one frequency: slow ones are divided by the factor, fast ones
/// kept, those between blended.
float llama3_frequency(float frequency, const RopeScaling& scaling) {
  const auto original = static_cast<float>(scaling.original_max_position_embeddings);
  const auto factor = static_cast<float>(scaling.factor);
  const auto low = static_cast<float>(scaling.low_freq_factor);
  const auto high = static_cast<float>(scaling.high_freq_factor);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

float scaled_frequency(float frequency, const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kLinear:
      return frequency / static_cast<float>(scaling.factor);
    case RopeScaling::Kind::kLlama3:
      return llama3_frequency(frequency, scaling);
    case RopeScaling::Kind::kNone:
      break;
  }
  return frequency;
}

}  // namespace

std::vector<std::string_view> known_model_types() {
  std::vector<std::string_view> names;
  for (const ArchitectureRow& row : kArchitectures) names.push_back(row.model_type);
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
  const ArchitectureRow& row = find_architecture(config.model_type, where);

  config.hidden_size = reader.positive_int("hidden_size");
  config.intermediate_size = reader.positive_int("intermediate_size");
  config.num_layers = reader.positive_int("num_hidden_layers", {}, kMaxLayers);
  config.num_heads = reader.positive_int("num_attention_heads");
  config.num_kv_heads = reader.positive_int("num_key_value_heads", config.num_heads);
  config.head_dim = parse_head_dim(reader, config, where);
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
  const std::vector<int> bos = reader.token_ids("bos_token_id");
  config.bos_token_id = bos.empty() ? -1 : bos.front();
  config.eos_token_ids = reader.token_ids("eos_token_id");
  check_consistency(config, where);
  return config;
}

// All in float32, as transformers: inv_freq = 1 / theta^(2i / head_dim).
std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    const float frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    frequencies[i] = scaled_frequency(frequency, config.rope_scaling);
  }
  return frequencies;
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
