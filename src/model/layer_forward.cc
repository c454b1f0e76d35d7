#include "model/layer_forward.h"

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
      max_positions_(max_positions) {
  if (model.config.local_rope_theta > 0.0) local_rope_ = make_rope_table(model.config, max_positions, true);
}

RopeTable LayerForward::rope(int layer) const {
  const std::vector<float>& table = model_.config.has_local_rope(layer) ? local_rope_ : rope_;
  return {table.data(), max_positions_, model_.config.head_dim};
}

AttentionParams LayerForward::attention_params(int layer) const {
  const ModelConfig& config = model_.config;
  return {
      .scale = config.attention_scale(), .window = config.window(layer), .softcap = config.attention_softcap};
}

void LayerForward::run(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
                       ConstMat delta, const LayerActivations& out) {
  run_until_activated(layer, batch, cache, cache_layer, residual, delta, out);
  project(out.mlp_out, out.activated, layer, Site::kDown, batch);
  normalise_output(out.delta, out.mlp_out, model_.layers[static_cast<size_t>(layer)].norm(Norm::kMlpOutput));
}

// Each half adds the previous half's output to the residual on its way into the norm, so that the sum is
// written once.
void LayerForward::run_until_activated(int layer, const Batch& batch, KvCache& cache, int cache_layer,
                                       ConstMat residual, ConstMat delta, const LayerActivations& out) {
  const ModelConfig& config = model_.config;
  const Layer& weights = model_.layers[static_cast<size_t>(layer)];
  const QkvViews qkv = split_qkv(out.qkv, config), projected = split_qkv(out.projected, config);
  const bool adds = delta.data != nullptr;
  check(adds || residual.data == out.residual.data, "a layer without a delta reads its own residual");

  backend_.rmsnorm(out.attention_in, adds ? out.residual : Mat(), residual, delta, weights.norm(Norm::kInput),
                   config.rms_norm_eps);
  project(out.projected, out.attention_in, layer, Site::kQkv, batch);
  if (config.qk_norm) normalise_heads(qkv, projected, weights);
  backend_.rope(qkv.q, qkv.k, config.head_dim, batch.positions, rope(layer));
  backend_.kv_write(cache, cache_layer, qkv.k, projected.v, batch.sequences);
  backend_.attention(out.attended, out.lse, qkv.q, cache, cache_layer, batch.sequences,
                     attention_params(layer));
  project(out.attention_out, out.attended, layer, Site::kO, batch);
  normalise_output(out.delta, out.attention_out, weights.norm(Norm::kAttentionOutput));

  backend_.rmsnorm(out.mlp_in, out.middle, out.residual, out.delta, weights.norm(Norm::kMlp),
                   config.rms_norm_eps);
  project(out.gate_up, out.mlp_in, layer, Site::kGateUp, batch);
  backend_.glu(out.activated, out.gate_up, config.activation);
}

void LayerForward::normalise_heads(const QkvViews& to, const QkvViews& from, const Layer& weights) {
  const float eps = model_.config.rms_norm_eps;
  backend_.rmsnorm(to.q, Mat(), from.q, ConstMat(), weights.norm(Norm::kQuery), eps);
  backend_.rmsnorm(to.k, Mat(), from.k, ConstMat(), weights.norm(Norm::kKey), eps);
}

/// An empty gain: there is no such norm, and `out` is `delta`.
void LayerForward::normalise_output(Mat delta, ConstMat out, const std::vector<float>& gain) {
  if (!gain.empty()) backend_.rmsnorm(delta, Mat(), out, ConstMat(), gain, model_.config.rms_norm_eps);
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
