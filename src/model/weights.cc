#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>

namespace polylora {
namespace {

std::vector<LinearModule> attention_modules(const ModelConfig& config) {
  const int64_t d = config.hidden_size, q = config.q_size(), kv = config.kv_size();
  const LinearModule o{"self_attn.o_proj", "o_proj", Site::kO, 0, d, q, config.o_bias};
  if (config.fused_projections)
    return {{"self_attn.qkv_proj", "qkv_proj", Site::kQkv, 0, q + 2 * kv, d, config.qkv_bias}, o};
  return {{"self_attn.q_proj", "q_proj", Site::kQkv, 0, q, d, config.qkv_bias},
          {"self_attn.k_proj", "k_proj", Site::kQkv, q, kv, d, config.qkv_bias},
          {"self_attn.v_proj", "v_proj", Site::kQkv, q + kv, kv, d, config.qkv_bias},
          o};
}

std::vector<LinearModule> feed_forward_modules(const ModelConfig& config) {
  const int64_t d = config.hidden_size, f = config.intermediate_size;
  const bool bias = config.mlp_bias;
  const LinearModule down{"mlp.down_proj", "down_proj", Site::kDown, 0, d, f, bias};
  if (config.fused_projections)
    return {{"mlp.gate_up_proj", "gate_up_proj", Site::kGateUp, 0, 2 * f, d, bias}, down};
  return {{"mlp.gate_proj", "gate_proj", Site::kGateUp, 0, f, d, bias},
          {"mlp.up_proj", "up_proj", Site::kGateUp, f, f, d, bias},
          down};
}

std::vector<LinearModule> mixture_modules(const ModelConfig& config) {
  const int64_t d = config.hidden_size, f = config.intermediate_size;
  const MixtureNames& names = config.experts.names;
  std::vector<LinearModule> modules = {
      {fmt::format("{}.gate", names.block), "gate", Site::kRouter, 0, config.experts.count, d}};
  for (int e = 0; e < config.experts.count; ++e) {
    const auto add = [&](std::string_view name, Site site, int64_t begin, int64_t rows, int64_t k) {
      modules.push_back({fmt::format("{}.experts.{}.{}", names.block, e, name), std::string(name), site,
                         begin, rows, k, false, e});
    };
    add(names.gate, gate_up_of(e), 0, f, d);
    add(names.up, gate_up_of(e), f, f, d);
    add(names.down, down_of(e), 0, d, f);
  }
  return modules;
}

int feed_forwards(const ModelConfig& config) {
  return std::max(1, config.experts.count);
}

bool is_gate_up(Site site) {
  return site >= Site::kGateUp && (static_cast<int>(site) - static_cast<int>(Site::kGateUp)) % 2 == 0;
}

}  // namespace

std::vector<Site> sites(const ModelConfig& config) {
  std::vector<Site> all = {Site::kQkv, Site::kO};
  if (config.has_experts()) all.push_back(Site::kRouter);
  for (int e = 0; e < feed_forwards(config); ++e) {
    all.push_back(gate_up_of(e));
    all.push_back(down_of(e));
  }
  return all;
}

size_t site_count(const ModelConfig& config) {
  return static_cast<size_t>(down_of(feed_forwards(config) - 1)) + 1;
}

std::vector<LinearModule> linear_modules(const ModelConfig& config) {
  std::vector<LinearModule> modules = attention_modules(config);
  for (LinearModule& module : config.has_experts() ? mixture_modules(config) : feed_forward_modules(config))
    modules.push_back(std::move(module));
  return modules;
}

std::vector<std::string> module_names(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const LinearModule& module : linear_modules(config)) {
    if (std::find(names.begin(), names.end(), module.name) == names.end()) names.push_back(module.name);
  }
  return names;
}

int64_t site_rows(const ModelConfig& config, Site site) {
  if (site == Site::kQkv) return config.qkv_size();
  if (site == Site::kRouter) return config.experts.count;
  return is_gate_up(site) ? 2 * int64_t{config.intermediate_size} : config.hidden_size;
}

std::vector<Layer> make_layers(const ModelConfig& config) {
  std::vector<Layer> layers(static_cast<size_t>(config.num_layers));
  for (Layer& layer : layers) layer.linears.resize(site_count(config));
  return layers;
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
      const auto add = [&](const char* suffix, Role role, int64_t cols) {
        fn({path + suffix, role, layer, m, module.n_count, cols, module.site, module.expert});
      };
      add(".weight", Role::kLinearWeight, module.k);
      if (module.has_bias) add(".bias", Role::kLinearBias, 0);
    }
  }
  fn({"model.norm.weight", Role::kFinalNorm, -1, -1, d, 0});
  if (!config.tie_word_embeddings) fn({"lm_head.weight", Role::kLmHead, -1, -1, v, d});
}

size_t Model::bytes() const {
  size_t total = embedding->bytes() + (lm_head ? lm_head->bytes() : 0) + final_norm.size() * sizeof(float);
  for (const Layer& layer : layers) {
    for (const std::vector<float>& norm : layer.norms) total += norm.size() * sizeof(float);
    for (const Linear& linear : layer.linears) {
      total += linear.weight ? linear.weight->bytes() : 0;
      total += linear.bias.size() * sizeof(float);
    }
  }
  return total;
}

}  // namespace polylora
