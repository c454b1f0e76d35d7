#include "io/adapter_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxRank = 4096;
constexpr size_t kMaxPatterns = 4096;
constexpr size_t kMaxPatternLength = 1024;  // a pattern is a module name or close to it
constexpr size_t kMaxLayers = 65536;
/// A layer's number as PEFT finds it without a layers_pattern: behind two words at least, the last one there
/// is.
constexpr const char* kAnyLayer = R"(.*\.[^.]*\.(\d+)\..*)";

/// Null when `pattern` is not an expression that std::regex reads.
std::optional<std::regex> compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternLength) return std::nullopt;
  auto flags = std::regex::ECMAScript;
#ifdef __GLIBCXX__
  // The default matcher backtracks: (a*)*b from a hostile file would run for ever. This one is linear in the
  // path's length.
  flags |= std::regex_constants::__polynomial;
#endif
  try {
    return std::regex(pattern, flags);
  } catch (const std::regex_error&) {
    return std::nullopt;
  }
}

bool is_true(const Json& config, const char* key) {
  return config.contains(key) && config[key].is_boolean() && config[key].get<bool>();
}

bool is_filled(const Json& config, const char* key) {
  return config.contains(key) && !config[key].is_null() && !config[key].empty();
}

/// Initialisations that also change the base weights: such an adapter is right only over its own base, unless
/// PEFT converted it on saving (and then wrote true here).
bool changes_base(const Json& config) {
  if (!config.contains("init_lora_weights") || !config["init_lora_weights"].is_string()) return false;
  const std::string name = config["init_lora_weights"];
  const auto starts = [&](std::string_view prefix) { return name.starts_with(prefix); };
  return starts("pissa") || starts("olora") || starts("corda") || starts("loftq") || starts("lora_ga");
}

void refuse_unsupported(const Json& config, const std::string& where) {
  const auto refuse = [&](std::string_view feature) {
    fail(ErrorCode::kUnsupported, "{}: {} is not supported yet", where, feature);
  };
  if (const Json type = config.value("peft_type", Json("LORA")); type != "LORA") {
    fail(ErrorCode::kUnsupported, "{}: peft_type {} is not supported; only LORA is", where, type.dump());
  }
  if (is_true(config, "use_qalora")) refuse("use_qalora");
  for (const char* key : {"layer_replication", "trainable_token_indices", "target_parameters",
                          "alora_invocation_tokens", "arrow_config"}) {
    if (is_filled(config, key)) refuse(key);
  }
  if (changes_base(config)) refuse("init_lora_weights " + config["init_lora_weights"].dump());
}

double alpha_value(const Json& value, std::string_view key, const std::string& where) {
  const double alpha = value.is_number() ? value.get<double>() : 0;
  if (!(alpha > 0) || alpha > kMaxLoraAlpha) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a positive number up to {:g}", where, key, kMaxLoraAlpha);
  }
  return alpha;
}

int64_t rank_value(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxRank) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an integer from 1 to {}", where, key, kMaxRank);
  }
  return value.get<int64_t>();
}

template <typename Value, typename Parse>
std::vector<std::pair<std::regex, Value>> parse_patterns(const Json& config, const char* key,
                                                         const std::string& where, Parse parse) {
  std::vector<std::pair<std::regex, Value>> patterns;
  if (!config.contains(key) || config[key].is_null()) return patterns;
  if (!config[key].is_object() || config[key].size() > kMaxPatterns) {
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an object of at most {} members", where, key,
         kMaxPatterns);
  }
  for (const auto& [pattern, value] : config[key].items()) {
    auto compiled = compile("(?:.*\\.)?(?:" + pattern + ")");
    if (!compiled) {
      fail(ErrorCode::kUnsupported, "{}: '{}' in {} is not a regular expression that can be read", where,
           pattern, key);
    }
    patterns.emplace_back(*std::move(compiled), parse(value, key, where));
  }
  return patterns;
}

/// A string or a list of strings, not empty.
std::vector<std::string> parse_names(const Json& config, const char* key, const std::string& where) {
  const Json& value = config[key];
  if (value.is_string()) return {value};
  std::vector<std::string> names;
  for (const Json& name : value) {
    if (!value.is_array() || !name.is_string())
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a string or a list of strings", where, key);
    names.push_back(name);
  }
  return names;
}

/// layers_to_transform: one number or a list.
std::vector<int64_t> parse_layers(const Json& value, const std::string& where) {
  const Json list = value.is_array() ? value : Json::array({value});
  std::vector<int64_t> layers;
  for (const Json& layer : list) {
    if (!layer.is_number_unsigned() || list.size() > kMaxLayers)
      fail(ErrorCode::kDataCorrupt, "{}: 'layers_to_transform' must be a layer's number or a list of them",
           where);
    layers.push_back(layer.get<int64_t>());
  }
  return layers;
}

void parse_layer_choice(const Json& config, const std::string& where, TargetModules& targets) {
  if (!is_filled(config, "layers_to_transform")) return;
  targets.layers = parse_layers(config["layers_to_transform"], where);
  std::vector<std::string> expressions = {kAnyLayer};
  if (is_filled(config, "layers_pattern")) {
    expressions = parse_names(config, "layers_pattern", where);
    for (std::string& name : expressions) name = ".*\\." + name + R"(\.(\d+)\..*)";
  }
  for (const std::string& expression : expressions) {
    auto compiled = compile(expression);
    if (!compiled)
      fail(ErrorCode::kUnsupported, "{}: 'layers_pattern' is not a regular expression that can be read",
           where);
    targets.layer_expressions.push_back(*std::move(compiled));
  }
}

std::optional<TargetModules> parse_target_modules(const Json& config, const std::string& where) {
  if (!is_filled(config, "target_modules")) return std::nullopt;
  const Json& value = config["target_modules"];
  TargetModules targets;
  targets.text = value.dump();
  if (value.is_string()) {
    if (is_filled(config, "layers_to_transform"))
      fail(ErrorCode::kDataCorrupt, "{}: layers_to_transform goes with a list of target_modules only", where);
    if (value != "all-linear") targets.expression = compile(value.get<std::string>());
    return targets.expression ? std::optional(std::move(targets)) : std::nullopt;
  }
  targets.names = parse_names(config, "target_modules", where);
  parse_layer_choice(config, where, targets);
  return targets;
}

template <typename Value>
const Value* first_match(const std::vector<std::pair<std::regex, Value>>& patterns,
                         const std::string& module_path) {
  for (const auto& [pattern, value] : patterns) {
    if (std::regex_match(module_path, pattern)) return &value;
  }
  return nullptr;
}

}  // namespace

bool TargetModules::matches(const std::string& module_path) const {
  if (expression) return std::regex_match(module_path, *expression);
  return includes_layer_of(module_path) &&
         std::any_of(names.begin(), names.end(), [&](const std::string& name) {
           return module_path == name || module_path.ends_with("." + name);
         });
}

bool TargetModules::includes_layer_of(const std::string& module_path) const {
  if (layers.empty()) return true;
  for (const std::regex& layer_expression : layer_expressions) {
    std::smatch match;
    if (!std::regex_match(module_path, match, layer_expression)) continue;
    int64_t layer = -1;
    const std::string digits = match[1];
    std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    return std::find(layers.begin(), layers.end(), layer) != layers.end();
  }
  return false;
}

std::optional<int64_t> AdapterConfig::rank_of(const std::string& module_path) const {
  if (any_rank) return std::nullopt;
  const int64_t* found = first_match(rank_pattern, module_path);
  return found == nullptr ? r : *found;
}

float AdapterConfig::scale_of(const std::string& module_path, int64_t rank) const {
  const double* found = first_match(alpha_pattern, module_path);
  const double alpha = found == nullptr ? lora_alpha : *found;
  if (alpha == 0) return 1.0f;
  const auto divisor = static_cast<double>(rank);
  return static_cast<float>(alpha / (use_rslora ? std::sqrt(divisor) : divisor));
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
  if (json.contains("lora_alpha")) config.lora_alpha = alpha_value(json["lora_alpha"], "lora_alpha", where);
  config.use_rslora = is_true(json, "use_rslora");
  config.use_dora = is_true(json, "use_dora");
  config.lora_bias = is_true(json, "lora_bias");
  config.fan_in_fan_out = is_true(json, "fan_in_fan_out");
  config.ensure_weight_tying = is_true(json, "ensure_weight_tying");
  config.rank_pattern = parse_patterns<int64_t>(json, "rank_pattern", where, rank_value);
  config.alpha_pattern = parse_patterns<double>(json, "alpha_pattern", where, alpha_value);
  if (is_filled(json, "bias")) config.bias = parse_names(json, "bias", where).front();
  if (is_filled(json, "modules_to_save"))
    config.modules_to_save = parse_names(json, "modules_to_save", where);
  config.target_modules = parse_target_modules(json, where);
  return config;
}

AdapterConfig parse_mlx_config(std::string_view text, const std::string& where) {
  const Json json = parse_ordered_json(text, where);
  if (!json.is_object() || !json.contains("lora_parameters") || !json["lora_parameters"].is_object())
    fail(ErrorCode::kDataCorrupt, "{}: 'lora_parameters' is missing: mlx-lm writes rank and scale there",
         where);
  const Json kind = json.value("fine_tune_type", Json("lora"));
  if (kind != "lora" && kind != "dora") {
    fail(ErrorCode::kUnsupported, "{}: fine_tune_type {} is no adapter; only lora and dora are", where,
         kind.dump());
  }
  const Json& parameters = json["lora_parameters"];
  AdapterConfig config;
  config.r = rank_value(parameters.value("rank", Json()), "rank", where);
  config.lora_alpha = alpha_value(parameters.value("scale", Json()), "scale", where) *
                      static_cast<double>(config.r);  // the scale is MLX's own, not divided by the rank
  config.use_dora = kind == "dora";
  config.ensure_weight_tying = true;  // its LoRAEmbedding adapts the head that is tied to it, too
  if (json.contains("model") && json["model"].is_string()) config.base_model_name = json["model"];
  return config;
}

}  // namespace polylora
