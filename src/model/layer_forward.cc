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

RouterParams LayerForward::router_params() const {
  const ExpertsConfig& experts = model_.config.experts;
  return {.per_token = experts.per_token, .normalises = experts.normalises};
}

void LayerForward::run(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
                       ConstMat delta, const LayerActivations& out) {
  attend(layer, batch, cache, cache_layer, residual, delta, out);
  if (model_.config.has_experts()) {
    mix_experts(layer, batch, out);
  } else {
    activate(layer, batch, out);
    project(out.mlp_out, out.activated, layer, Site::kDown, batch);
  }
  normalise_output(out.delta, out.mlp_out, model_.layers[static_cast<size_t>(layer)].norm(Norm::kMlpOutput));
}

void LayerForward::run_until_activated(int layer, const Batch& batch, KvCache& cache, int cache_layer,
                                       ConstMat residual, ConstMat delta, const LayerActivations& out) {
  attend(layer, batch, cache, cache_layer, residual, delta, out);
  if (!model_.config.has_experts()) return activate(layer, batch, out);
  for_each_expert(batch, route(layer, batch, out), [&](int expert, const auto& share, const BatchRows& rows) {
    activate_expert(layer, expert, share, batch, rows, out);
  });
}

// Each half adds the previous half's output to the residual on its way into the norm, so that the sum is
// written once.
void LayerForward::attend(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
                          ConstMat delta, const LayerActivations& out) {
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
}

void LayerForward::activate(int layer, const Batch& batch, const LayerActivations& out) {
  project(out.gate_up, out.mlp_in, layer, Site::kGateUp, batch);
  backend_.glu(out.activated, out.gate_up, model_.config.activation);
}

Routing LayerForward::route(int layer, const Batch& batch, const LayerActivations& out) {
  project(out.router_logits, out.mlp_in, layer, Site::kRouter, batch);
  return backend_.route(out.router_logits, router_params());
}

void LayerForward::activate_expert(int layer, int expert, const Routing::Share& share, const Batch& batch,
                                   const BatchRows& rows, const LayerActivations& out) {
  const Mat in = out.expert_in.row_range(0, share.size()), gate_up = out.of_expert(out.gate_up, share);
  backend_.gather_rows(in, out.mlp_in, share.rows);
  project(gate_up, in, layer, gate_up_of(expert), batch, rows);
  backend_.glu(out.of_expert(out.activated, share), gate_up, model_.config.activation);
}

/// mlp_out = Σ over a row's experts of weight · expert(mlp_in). Experts add in ascending order: a row's sum
/// does not depend on the others in the batch.
void LayerForward::mix_experts(int layer, const Batch& batch, const LayerActivations& out) {
  const Routing routing = route(layer, batch, out);
  backend_.clear(out.mlp_out);
  for_each_expert(batch, routing, [&](int expert, const auto& share, const BatchRows& rows) {
    activate_expert(layer, expert, share, batch, rows, out);
    const Mat result = out.expert_out.row_range(0, share.size());
    project(result, out.of_expert(out.activated, share), layer, down_of(expert), batch, rows);
    backend_.scatter_add(out.mlp_out, result, share.rows, share.weights);
  });
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

void LayerForward::project(Mat y, ConstMat x, int layer, Site site, const Batch& batch,
                           const BatchRows& rows) {
  const Linear& linear = model_.layers[static_cast<size_t>(layer)].at(site);
  lora_groups_.clear();
  for (const AdapterGroup& group : rows.groups) {
    for (const Adapter::Term& term : group.terms()) {
      const LoraWeight* weight = term.adapter->weight(layer, site);
      if (weight != nullptr) lora_groups_.push_back({group.row_begin, group.row_end, weight, term.factor});
    }
  }
  if (batch.adapter_input && !lora_groups_.empty()) {
    backend_.linear(y, x, *linear.weight, linear.bias);
    backend_.lora_delta(y, batch.adapter_input(x, layer, site, rows.rows), lora_groups_);
  } else {
    backend_.linear(y, x, *linear.weight, linear.bias, lora_groups_);
  }
  for (const AdapterGroup& group : rows.groups) {
    for (const Adapter::Term& term : group.terms()) {
      const std::span<const float> gain = term.adapter->gain(layer, site);
      if (!gain.empty()) backend_.scale_columns(group.rows_of(y), gain, term.adapter->shift(layer, site));
    }
  }
}

}  // namespace polylora
