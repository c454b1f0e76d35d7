// PEFT's adapter_config.json, as far as inference needs it
// (https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py).
#pragma once

#include <cstdint>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

/// PEFT's target_modules: a list of names, each the end of a module path, or one regular expression that
/// matches a whole path.
struct TargetModules {
  std::vector<std::string> names;
  std::optional<std::regex> expression;
  std::string text;  // as the file has it, for messages

  bool matches(const std::string& module_path) const;
};

struct AdapterConfig {
  std::string base_model_name;
  int64_t r = 8;
  double lora_alpha = 8;
  bool use_rslora = false;
  bool use_dora = false;
  bool lora_bias = false;            // B has a bias
  bool fan_in_fan_out = false;       // the adapted weights are stored [in, out] (GPT-2's Conv1D)
  bool ensure_weight_tying = false;  // what is trained of the embedding is trained of a tied lm_head too
  std::string bias = "none";         // which of the base's biases were trained
  std::vector<std::string> modules_to_save;  // names of modules trained whole
  /// In file order: the first key k for which (.*\.)?(k) matches the whole module path wins, as in PEFT.
  std::vector<std::pair<std::regex, int64_t>> rank_pattern;
  std::vector<std::pair<std::regex, double>> alpha_pattern;
  /// Empty: absent, or nothing that can be checked ("all-linear", an expression of a dialect we do not read).
  std::optional<TargetModules> target_modules;

  int64_t rank_of(const std::string& module_path) const;
  float scale_of(const std::string& module_path) const;  // alpha / r, or alpha / sqrt(r) with rsLoRA
};

/// Throws kDataCorrupt for senseless values, kUnsupported naming the feature for what nothing here can use (a
/// peft_type other than LORA, …).
AdapterConfig parse_adapter_config(std::string_view text, const std::string& where);

}  // namespace polylora
