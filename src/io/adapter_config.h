// PEFT's adapter_config.json, as far as inference needs it
// (https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py), and MLX's, put in PEFT's
// terms (https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/tuner/utils.py).
#pragma once

#include <cstdint>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

inline constexpr double kMaxLoraAlpha = 1e9;  // keeps every scale finite in f32

/// PEFT's target_modules: a list of names, each the end of a module path, or one regular expression that
/// matches a whole path.
struct TargetModules {
  std::vector<std::string> names;
  std::optional<std::regex> expression;
  std::string text;  // as the file has it, for messages

  /// layers_to_transform: the layers that alone are adapted; empty: all.
  std::vector<int64_t> layers;
  /// What finds a layer's number in a module path, as its first group (layers_pattern). The first that
  /// matches decides.
  std::vector<std::regex> layer_expressions;

  bool matches(const std::string& module_path) const;
  /// Whether layers_to_transform lets the module through.
  bool includes_layer_of(const std::string& module_path) const;
};

struct AdapterConfig {
  std::string base_model_name;
  int64_t r = 8;
  bool any_rank = false;  // r and rank_pattern say nothing: the tensors' own ranks hold (GGUF)
  double lora_alpha = 8;  // 0: every scale is 1 (GGUF)
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

  /// The rank that a module's A and B must have; empty: any.
  std::optional<int64_t> rank_of(const std::string& module_path) const;
  /// alpha / rank, or alpha / sqrt(rank) with rsLoRA.
  float scale_of(const std::string& module_path, int64_t rank) const;
};

/// Throws kDataCorrupt for senseless values, kUnsupported naming the feature for what nothing here can use (a
/// peft_type other than LORA, …).
AdapterConfig parse_adapter_config(std::string_view text, const std::string& where);

/// The adapter_config.json that mlx-lm writes: rank and scale of lora_parameters, fine_tune_type lora or
/// dora, model. Throws kDataCorrupt for senseless values, kUnsupported for any other fine_tune_type.
AdapterConfig parse_mlx_config(std::string_view text, const std::string& where);

}  // namespace polylora
