#include "model/forward.h"

#include <cmath>

#include "base/error.h"

namespace polylora {
namespace {

/// Rows of the activation buffer start on 64-byte lines.
int64_t padded(int64_t cols) {
  return (cols + 15) / 16 * 16;
}

}  // namespace

ForwardPass::ForwardPass(const Model& model, Backend& backend, int max_rows, int max_positions)
    : model_(model),
      backend_(backend),
      max_rows_(max_rows),
      rope_(make_rope_table(model.config, max_positions)),
      max_positions_(max_positions) {
  const ModelConfig& config = model.config;
  struct Activation {
    Mat* mat;
    int64_t cols;
  };
  const Activation activations[] = {
      {&residual_, config.hidden_size},        {&normed_, config.hidden_size},
      {&delta_, config.hidden_size},           {&qkv_, config.qkv_size()},
      {&attended_, config.q_size()},           {&gate_up_, 2 * int64_t{config.intermediate_size}},
      {&activated_, config.intermediate_size},
  };
  int64_t floats = 0;
  for (const Activation& activation : activations) floats += max_rows * padded(activation.cols);
  buffer_ = HugeBuffer(static_cast<size_t>(floats) * sizeof(float));

  auto* next = buffer_.as<float>();
  for (const Activation& activation : activations) {
    *activation.mat = Mat(next, max_rows, activation.cols, padded(activation.cols));
    next += max_rows * padded(activation.cols);
  }
}

size_t ForwardPass::bytes() const {
  return buffer_.size() + rope_.size() * sizeof(float);
}

void ForwardPass::run(const Batch& batch, KvCache& cache) {
  rows_ = batch.rows();
  check(rows_ > 0 && rows_ <= max_rows_, "batch rows within the activation buffer");
  const Mat residual = residual_.row_range(0, rows_);
  backend_.embed(residual, *model_.embedding, batch.token_ids);
  for (int layer = 0; layer < model_.config.num_layers; ++layer) run_layer(layer, batch, cache);
  backend_.add(residual, delta_.row_range(0, rows_));
}

// Each half adds the previous half's output to the residual on its way into the norm, so that the sum is
// written once. The first layer has nothing to add yet.
void ForwardPass::run_layer(int layer, const Batch& batch, KvCache& cache) {
  const ModelConfig& config = model_.config;
  const Layer& weights = model_.layers[static_cast<size_t>(layer)];
  const auto rows = [&](const Mat& activation) { return activation.row_range(0, rows_); };
  const Mat residual = rows(residual_), normed = rows(normed_), delta = rows(delta_),
            attended = rows(attended_);
  const Mat gate_up = rows(gate_up_), activated = rows(activated_), qkv = rows(qkv_);
  const Mat q = qkv.columns(0, config.q_size());
  const Mat k = qkv.columns(config.q_size(), config.kv_size());
  const Mat v = qkv.columns(config.q_size() + config.kv_size(), config.kv_size());
  const AttentionParams attention{.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim))};
  const RopeTable rope(rope_.data(), max_positions_, config.head_dim);
  const bool first = layer == 0;

  backend_.rmsnorm(normed, first ? Mat() : residual, residual, first ? ConstMat() : ConstMat(delta),
                   weights.input_norm, config.rms_norm_eps);
  project(qkv, normed, layer, Site::kQkv, batch);
  backend_.rope(q, k, config.head_dim, batch.positions, rope);
  backend_.kv_write(cache, layer, k, v, batch.sequences);
  backend_.attention(attended, Mat(), q, cache, layer, batch.sequences, attention);
  project(delta, attended, layer, Site::kO, batch);

  backend_.rmsnorm(normed, residual, residual, delta, weights.post_attention_norm, config.rms_norm_eps);
  project(gate_up, normed, layer, Site::kGateUp, batch);
  backend_.glu(activated, gate_up, config.activation);
  project(delta, activated, layer, Site::kDown, batch);
}

// The one place where LoRA happens: y = W·x (+ bias), and per group of rows y += scale · B·(A·x).
void ForwardPass::project(Mat y, ConstMat x, int layer, Site site, const Batch& batch) {
  const Linear& linear = model_.layers[static_cast<size_t>(layer)].at(site);
  backend_.linear(y, x, *linear.weight, linear.bias);
  lora_groups_.clear();
  for (const AdapterGroup& group : batch.groups) {
    const LoraWeight* weight = group.adapter == nullptr ? nullptr : group.adapter->weight(layer, site);
    if (weight != nullptr) lora_groups_.push_back({group.row_begin, group.row_end, weight});
  }
  if (!lora_groups_.empty()) backend_.lora_delta(y, x, lora_groups_);
}

void ForwardPass::logits(std::span<const int32_t> rows, Mat out) {
  const auto count = static_cast<int64_t>(rows.size());
  check(count <= max_rows_, "logit rows within the activation buffer");
  const Mat gathered = delta_.row_range(0, count);
  const Mat normed = normed_.row_range(0, count);
  backend_.gather_rows(gathered, residual_.row_range(0, rows_), rows);
  backend_.rmsnorm(normed, Mat(), gathered, ConstMat(), model_.final_norm, model_.config.rms_norm_eps);
  backend_.linear(out, normed, model_.output_embedding(), {});
}

}  // namespace polylora
