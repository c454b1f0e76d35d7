#include "model/weights.h"

#include <fmt/format.h>

namespace polylora {

std::vector<LinearModule> linear_modules(const ModelConfig& config) {
  const int64_t d = config.hidden_size, f = config.intermediate_size, q = config.q_size(),
                kv = config.kv_size();
  const LinearModule o{"self_attn.o_proj", "o_proj", Site::kO, 0, d, q, config.o_bias};
  const LinearModule down{"mlp.down_proj", "down_proj", Site::kDown, 0, d, f, config.mlp_bias};
  if (config.fused_projections) {
    return {{"self_attn.qkv_proj", "qkv_proj", Site::kQkv, 0, q + 2 * kv, d, config.qkv_bias},
            o,
            {"mlp.gate_up_proj", "gate_up_proj", Site::kGateUp, 0, 2 * f, d, config.mlp_bias},
            down};
  }
  return {{"self_attn.q_proj", "q_proj", Site::kQkv, 0, q, d, config.qkv_bias},
          {"self_attn.k_proj", "k_proj", Site::kQkv, q, kv, d, config.qkv_bias},
          {"self_attn.v_proj", "v_proj", Site::kQkv, q + kv, kv, d, config.qkv_bias},
          o,
          {"mlp.gate_proj", "gate_proj", Site::kGateUp, 0, f, d, config.mlp_bias},
          {"mlp.up_proj", "up_proj", Site::kGateUp, f, f, d, config.mlp_bias},
          down};
}

int64_t site_rows(const ModelConfig& config, Site site) {
  switch (site) {
    case Site::kQkv:
      return config.qkv_size();
    case Site::kGateUp:
      return 2 * int64_t{config.intermediate_size};
    case Site::kO:
    case Site::kDown:
      break;
  }
  return config.hidden_size;
}

std::string module_path(int layer, const LinearModule& module) {
  return fmt::format("model.layers.{}.{}", layer, module.path);
}

namespace {

struct NormName {
  Norm norm;
  std::string_view name;
};

/// Llama's post_attention_layernorm is the norm before the feed-forward; where attention's output has a norm,
/// that is called so.
std::vector<NormName> norm_names(const ModelConfig& config) {
  std::vector<NormName> names = {{Norm::kInput, "input_layernorm"}};
  if (config.qk_norm) {
    names.push_back({Norm::kQuery, "self_attn.q_norm"});
    names.push_back({Norm::kKey, "self_attn.k_norm"});
  }
  if (!config.output_norms) {
    names.push_back({Norm::kMlp, "post_attention_layernorm"});
    return names;
  }
  names.push_back({Norm::kAttentionOutput, "post_attention_layernorm"});
  names.push_back({Norm::kMlp, "pre_feedforward_layernorm"});
  names.push_back({Norm::kMlpOutput, "post_feedforward_layernorm"});
  return names;
}

bool is_of_head(Norm norm) {
  return norm == Norm::kQuery || norm == Norm::kKey;
}

}  // namespace

void for_each_tensor(const ModelConfig& config, const std::function<void(const TensorSpec&)>& fn) {
  using Role = TensorSpec::Role;
  const int64_t d = config.hidden_size, v = config.vocab_size;
  const auto modules = linear_modules(config);
  const auto norms = norm_names(config);
  fn({"model.embed_tokens.weight", Role::kEmbedding, -1, -1, v, d});
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    for (const auto& [norm, name] : norms) {
      const int64_t width = is_of_head(norm) ? config.head_dim : d;
      fn({fmt::format("{}{}.weight", prefix, name), Role::kNorm, layer, static_cast<int>(norm), width, 0});
    }
    for (int m = 0; m < static_cast<int>(modules.size()); ++m) {
      const LinearModule& module = modules[static_cast<size_t>(m)];
      const std::string path = module_path(layer, module);
      fn({path + ".weight", Role::kLinearWeight, layer, m, module.n_count, module.k});
      if (module.has_bias) fn({path + ".bias", Role::kLinearBias, layer, m, module.n_count, 0});
    }
  }
  fn({"model.norm.weight", Role::kFinalNorm, -1, -1, d, 0});
  if (!config.tie_word_embeddings) fn({"lm_head.weight", Role::kLmHead, -1, -1, v, d});
}

size_t Model::bytes() const {
  size_t total = embedding->bytes() + (lm_head ? lm_head->bytes() : 0) + final_norm.size() * sizeof(float);
  for (const Layer& layer : layers) {
    for (const std::vector<float>& norm : layer.norms) total += norm.size() * sizeof(float);
    for (const Linear& linear : layer.linears)
      total += linear.weight->bytes() + linear.bias.size() * sizeof(float);
  }
  return total;
}

}  // namespace polylora
