#include "model/rope_parser.h"

#include <string>

namespace polylora {
namespace {

using nlohmann::json;

RopeScaling parse_llama3(const ConfigReader& reader, std::string_view where) {
  RopeScaling scaling{.kind = RopeScaling::Kind::kLlama3, .short_factor = {}, .long_factor = {}};
  scaling.factor = reader.positive_number("factor");
  scaling.low_freq_factor = reader.positive_number("low_freq_factor", 1.0);
  scaling.high_freq_factor = reader.positive_number("high_freq_factor", 4.0);
  scaling.original_max_position_embeddings = reader.positive_int("original_max_position_embeddings", 8192);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    fail(ErrorCode::kDataCorrupt, "{}: 'high_freq_factor' must be above 'low_freq_factor'", where);
  }
  return scaling;
}

/// transformers' _compute_longrope_parameters. The original context stands beside rope_scaling in older
/// files.
RopeScaling parse_longrope(const ConfigReader& reader, const ConfigReader& outer, const ModelConfig& config) {
  RopeScaling scaling{.kind = RopeScaling::Kind::kLongRope, .short_factor = {}, .long_factor = {}};
  const auto pairs = static_cast<size_t>(config.head_dim / 2);
  scaling.short_factor = reader.positive_numbers("short_factor", pairs);
  scaling.long_factor = reader.positive_numbers("long_factor", pairs);
  const char* key = "original_max_position_embeddings";
  const int original = reader.has(key) ? reader.positive_int(key) : outer.positive_int(key);
  scaling.original_max_position_embeddings = original;
  const double stretched = double{1} * config.max_position_embeddings / original;
  const double factor = reader.positive_number("factor", stretched);
  const double attention =
      factor <= 1.0 || original == 1 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
  scaling.attention_factor = reader.positive_number("attention_factor", attention);
  return scaling;
}

RopeScaling parse_rope_scaling(const json& object, const ConfigReader& outer, std::string_view where,
                               const ModelConfig& config) {
  const ConfigReader reader(object, where);
  const std::string type = reader.text("rope_type", reader.text("type", "default"));
  if (type == "default") return {};
  if (type == "linear") {
    RopeScaling scaling{.kind = RopeScaling::Kind::kLinear, .short_factor = {}, .long_factor = {}};
    scaling.factor = reader.positive_number("factor");
    return scaling;
  }
  if (type == "llama3") return parse_llama3(reader, where);
  if (type == "longrope" || type == "su") return parse_longrope(reader, outer, config);
  fail(ErrorCode::kUnsupported,
       "{}: rope scaling '{}' is not supported; known: default, linear, llama3, longrope", where, type);
}

void refuse_partial_rope(const ConfigReader& reader, std::string_view where) {
  const double share = reader.positive_number("partial_rotary_factor", 1.0);
  if (share != 1.0) {
    fail(ErrorCode::kUnsupported,
         "{}: rotary embedding over part of a head (partial_rotary_factor {}) is not "
         "supported",
         where, share);
  }
}

}  // namespace

/// transformers 5 writes rope_parameters {rope_theta, rope_type, …}, with two kinds of layers one such object
/// for each; before that rope_theta and rope_local_base_freq stood beside rope_scaling.
void parse_rope(const ConfigReader& reader, const Architecture& row, std::string_view where,
                ModelConfig& config) {
  refuse_partial_rope(reader, where);
  config.rope_theta = reader.positive_number("rope_theta", row.default_rope_theta);
  if (row.default_local_rope_theta > 0)
    config.local_rope_theta = reader.positive_number("rope_local_base_freq", row.default_local_rope_theta);
  if (const json* scaling = reader.object("rope_scaling"))
    config.rope_scaling = parse_rope_scaling(*scaling, reader, where, config);
  const json* rope = reader.object("rope_parameters");
  if (rope == nullptr) return;
  const ConfigReader kinds(*rope, where);
  if (const json* local = kinds.object("sliding_attention"); local != nullptr && config.local_rope_theta > 0)
    config.local_rope_theta =
        ConfigReader(*local, where).positive_number("rope_theta", config.local_rope_theta);
  if (const json* full = kinds.object("full_attention")) rope = full;
  config.rope_theta = ConfigReader(*rope, where).positive_number("rope_theta", config.rope_theta);
  config.rope_scaling = parse_rope_scaling(*rope, reader, where, config);
}

}  // namespace polylora
