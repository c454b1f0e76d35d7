#include "io/adapter_config.h"

#include <cmath>

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxRank = 4096;
constexpr size_t kMaxPatternLength = 1024;  // std::regex recurses; a pattern is a module name or close to it

template <typename Value>
const Value* match(const std::vector<std::pair<std::regex, Value>>& patterns,
                   const std::string& module_path) {
  for (const auto& [pattern, value] : patterns) {
    if (std::regex_match(module_path, pattern)) return &value;
  }
  return nullptr;
}

void refuse_unsupported(const Json& config, const std::string& where) {
  const auto is_set = [&](const char* key) {
    return config.contains(key) && config[key].is_boolean() && config[key];
  };
  const auto is_filled = [&](const char* key) {
    return config.contains(key) && !config[key].is_null() && !config[key].empty();
  };
  const auto refuse = [&](std::string_view feature) {
    fail(ErrorCode::kUnsupported, "{}: {} is not supported yet", where, feature);
  };
  if (const Json type = config.value("peft_type", Json("LORA")); type != "LORA") {
    fail(ErrorCode::kUnsupported, "{}: peft_type {} is not supported; only LORA is", where, type.dump());
  }
  if (is_set("use_dora")) refuse("DoRA (use_dora)");
  if (is_set("lora_bias")) refuse("lora_bias");
  if (is_set("fan_in_fan_out")) refuse("fan_in_fan_out");
  if (is_filled("modules_to_save")) refuse("modules_to_save");
  if (is_filled("layer_replication")) refuse("layer_replication");
  if (is_filled("trainable_token_indices")) refuse("trainable_token_indices");
  if (is_filled("target_parameters")) refuse("target_parameters");
  if (const Json bias = config.value("bias", Json("none")); bias != "none") refuse("bias " + bias.dump());
}

double positive(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a positive number", where, key);
  }
  return value.get<double>();
}

int64_t rank_value(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxRank) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an integer from 1 to {}", where, key, kMaxRank);
  }
  return value.get<int64_t>();
}

std::regex compile(const std::string& key, const std::string& where) {
  if (key.size() > kMaxPatternLength) fail(ErrorCode::kDataCorrupt, "{}: a pattern key is too long", where);
  try {
    return std::regex("(.*\\.)?(" + key + ")", std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error&) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' is not a regular expression", where, key);
  }
}

template <typename Value, typename Parse>
std::vector<std::pair<std::regex, Value>> parse_patterns(const Json& config, const char* key,
                                                         const std::string& where, Parse parse) {
  std::vector<std::pair<std::regex, Value>> patterns;
  if (!config.contains(key) || config[key].is_null()) return patterns;
  if (!config[key].is_object()) fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an object", where, key);
  for (const auto& [pattern, value] : config[key].items())
    patterns.emplace_back(compile(pattern, where), parse(value, key, where));
  return patterns;
}

}  // namespace

int64_t AdapterConfig::rank_of(const std::string& module_path) const {
  const int64_t* found = match(rank_pattern, module_path);
  return found == nullptr ? r : *found;
}

float AdapterConfig::scale_of(const std::string& module_path) const {
  const double* alpha = match(alpha_pattern, module_path);
  const auto rank = static_cast<double>(rank_of(module_path));
  return static_cast<float>((alpha == nullptr ? lora_alpha : *alpha) / (use_rslora ? std::sqrt(rank) : rank));
}

AdapterConfig parse_adapter_config(std::string_view text, const std::string& where) {
  const Json json = parse_ordered_json(text, where);
  if (!json.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", where);
  refuse_unsupported(json, where);
  AdapterConfig config;
  if (json.contains("base_model_name_or_path") && json["base_model_name_or_path"].is_string()) {
    config.base_model_name = json["base_model_name_or_path"];
  }
  if (json.contains("r")) config.r = rank_value(json["r"], "r", where);
  if (json.contains("lora_alpha")) config.lora_alpha = positive(json["lora_alpha"], "lora_alpha", where);
  config.use_rslora = json.contains("use_rslora") && json["use_rslora"].is_boolean() && json["use_rslora"];
  config.rank_pattern = parse_patterns<int64_t>(json, "rank_pattern", where, rank_value);
  config.alpha_pattern = parse_patterns<double>(json, "alpha_pattern", where, positive);
  return config;
}

}  // namespace polylora
