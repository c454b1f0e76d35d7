#include "model/layer_forward.h"

#include <cmath>

#include "base/error.h"

namespace polylora {

QkvViews split_qkv(Mat qkv, const ModelConfig& config) {
  const int64_t q = config.q_size(), kv = config.kv_size();
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

LayerForward::LayerForward(const Model& model, Backend& backend, int max_positions)
    : model_(model),
      backend_(backend),
      rope_(make_rope_table(model.config, max_positions)),
      max_positions_(max_positions) {}

AttentionParams LayerForward::attention_params() const {
  return {.scale = 1.0f / std::sqrt(static_cast<float>(model_.config.head_dim))};
}

void LayerForward::run(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
                       ConstMat delta, const LayerActivations& out) {
  run_until_activated(layer, batch, cache, cache_layer, residual, delta, out);
  project(out.delta, out.activated, layer, Site::kDown, batch);
}

// Each half adds the previous half's output to the residual on its way into the norm, so that the sum is
// written once.
void LayerForward::run_until_activated(int layer, const Batch& batch, KvCache& cache, int cache_layer,
                                       ConstMat residual, ConstMat delta, const LayerActivations& out) {
  const ModelConfig& config = model_.config;
  const Layer& weights = model_.layers[static_cast<size_t>(layer)];
  const QkvViews qkv = split_qkv(out.qkv, config);
  const bool adds = delta.data != nullptr;
  check(adds || residual.data == out.residual.data, "a layer without a delta reads its own residual");

  backend_.rmsnorm(out.attention_in, adds ? out.residual : Mat(), residual, delta, weights.input_norm,
                   config.rms_norm_eps);
  project(out.qkv, out.attention_in, layer, Site::kQkv, batch);
  backend_.rope(qkv.q, qkv.k, config.head_dim, batch.positions, rope());
  backend_.kv_write(cache, cache_layer, qkv.k, qkv.v, batch.sequences);
  backend_.attention(out.attended, out.lse, qkv.q, cache, cache_layer, batch.sequences, attention_params());
  project(out.delta, out.attended, layer, Site::kO, batch);

  backend_.rmsnorm(out.mlp_in, out.middle, out.residual, out.delta, weights.post_attention_norm,
                   config.rms_norm_eps);
  project(out.gate_up, out.mlp_in, layer, Site::kGateUp, batch);
  backend_.glu(out.activated, out.gate_up, config.activation);
}

void LayerForward::project(Mat y, ConstMat x, int layer, Site site, const Batch& batch) {
  const Linear& linear = model_.layers[static_cast<size_t>(layer)].at(site);
  lora_groups_.clear();
  for (const AdapterGroup& group : batch.groups) {
    for (const Adapter::Term& term : group.terms()) {
      const LoraWeight* weight = term.adapter->weight(layer, site);
      if (weight != nullptr) lora_groups_.push_back({group.row_begin, group.row_end, weight, term.factor});
    }
  }
  if (batch.adapter_input && !lora_groups_.empty()) {
    backend_.linear(y, x, *linear.weight, linear.bias);
    backend_.lora_delta(y, batch.adapter_input(x, layer, site), lora_groups_);
  } else {
    backend_.linear(y, x, *linear.weight, linear.bias, lora_groups_);
  }
  for (const AdapterGroup& group : batch.groups) {
    for (const Adapter::Term& term : group.terms()) {
      const std::span<const float> gain = term.adapter->gain(layer, site);
      if (!gain.empty()) backend_.scale_columns(group.rows_of(y), gain, term.adapter->shift(layer, site));
    }
  }
}

}  // namespace polylora
