#include "model/architectures.h"

#include <fmt/format.h>

#include <utility>

namespace polylora {
namespace {

constexpr Architecture kArchitectures[] = {
    {.model_type = "llama",
     .families = "Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama",
     .reads_attention_bias = true,
     .reads_mlp_bias = true},
    {.model_type = "mistral", .families = "Mistral 7B", .windows = Windows::kAll, .default_window = 4096},
    {.model_type = "qwen2",
     .families = "Qwen2, Qwen2.5",
     .has_qkv_bias = true,
     .windows = Windows::kFromLayer,
     .default_window = 4096},
    {.model_type = "qwen3",
     .families = "Qwen3 (dense)",
     .reads_attention_bias = true,
     .has_qk_norm = true,
     .default_head_dim = 128,
     .windows = Windows::kFromLayer,
     .default_window = 4096},
    {.model_type = "gemma2",
     .families = "Gemma 2",
     .reads_attention_bias = true,
     .has_output_norms = true,
     .is_gemma = true,
     .default_activation = "gelu_pytorch_tanh",
     .default_tie_embeddings = true,
     .default_head_dim = 256,
     .windows = Windows::kEverySecond,
     .default_window = 4096,
     .default_attention_softcap = 50.0f,
     .default_final_softcap = 30.0f},
    {.model_type = "gemma3_text",
     .families = "Gemma 3 (text)",
     .reads_attention_bias = true,
     .has_qk_norm = true,
     .has_output_norms = true,
     .is_gemma = true,
     .default_activation = "gelu_pytorch_tanh",
     .default_tie_embeddings = true,
     .default_rope_theta = 1e6,
     .default_local_rope_theta = 1e4,
     .default_head_dim = 256,
     .windows = Windows::kAllButEveryNth,
     .default_window = 4096},
    {.model_type = "phi3",
     .families = "Phi-3, Phi-3.5-mini",
     .has_fused_projections = true,
     .default_rms_norm_eps = 1e-5f,
     .windows = Windows::kAll},
    {.model_type = "mixtral",
     .families = "Mixtral 8x7B, 8x22B",
     .default_rope_theta = 1e6,
     .default_rms_norm_eps = 1e-5f,
     .windows = Windows::kAll,
     .experts = {.block = "block_sparse_moe",
                 .gate = "w1",
                 .up = "w3",
                 .down = "w2",
                 .count_key = "num_local_experts",
                 .default_count = 8,
                 .default_per_token = 2}},
    {.model_type = "qwen3_moe",
     .families = "Qwen3 (mixtures of experts)",
     .reads_attention_bias = true,
     .has_qk_norm = true,
     .windows = Windows::kFromLayer,
     .default_window = 4096,
     .experts = {.block = "mlp",
                 .width_key = "moe_intermediate_size",
                 .default_count = 128,
                 .default_per_token = 8,
                 .default_width = 768,
                 .may_normalise = true}},
};

std::string_view window_text(Windows windows) {
  switch (windows) {
    case Windows::kAll:
      return "sliding window in every layer";
    case Windows::kFromLayer:
      return "sliding window from max_window_layers, if use_sliding_window";
    case Windows::kEverySecond:
      return "sliding window in every second layer";
    case Windows::kAllButEveryNth:
      return "sliding window in all layers but every sliding_window_pattern-th";
    case Windows::kNone:
      break;
  }
  return {};
}

std::string differences(const Architecture& row) {
  const std::pair<bool, std::string_view> facts[] = {
      {row.reads_attention_bias || row.reads_mlp_bias, "biases where config.json says so"},
      {row.has_qkv_bias, "biases on q, k and v"},
      {row.has_fused_projections, "qkv_proj and gate_up_proj"},
      {row.has_qk_norm, "norms on q and k"},
      {row.has_output_norms, "norms after attention and feed-forward"},
      {row.is_gemma, "scaled embeddings, query_pre_attn_scalar"},
      {row.default_attention_softcap > 0, "soft caps on scores and logits"},
      {row.default_local_rope_theta > 0, "a rope base of its own in windowed layers"},
      {row.windows != Windows::kNone, window_text(row.windows)},
      {!row.experts.block.empty(), "a mixture of experts"},
  };
  std::string text;
  for (const auto& [holds, fact] : facts) {
    if (holds) text += fmt::format("{}{}", text.empty() ? "" : "; ", fact);
  }
  return text;
}

}  // namespace

std::span<const Architecture> architectures() {
  return kArchitectures;
}

std::string architecture_table() {
  std::string table = "| `model_type` | models | beyond Llama 2 |\n|---|---|---|\n";
  for (const Architecture& row : kArchitectures)
    table += fmt::format("| `{}` | {} | {} |\n", row.model_type, row.families, differences(row));
  return table;
}

}  // namespace polylora
