#include "model/forward.h"

#include "base/error.h"

namespace polylora {

ForwardPass::ForwardPass(const Model& model, Backend& backend, int max_rows, int max_positions)
    : model_(model), backend_(backend), layers_(model, backend, max_positions), max_rows_(max_rows) {
  const ModelConfig& config = model.config;
  arena_.add(residual_, max_rows, config.hidden_size);
  arena_.add(normed_, max_rows, config.hidden_size);
  arena_.add(delta_, max_rows, config.hidden_size);
  arena_.add(qkv_, max_rows, config.qkv_size());
  arena_.add(attended_, max_rows, config.q_size());
  arena_.add(gate_up_, max_rows, 2 * int64_t{config.intermediate_size});
  arena_.add(activated_, max_rows, config.intermediate_size);
  arena_.allocate();
}

size_t ForwardPass::bytes() const {
  return arena_.bytes() + layers_.bytes();
}

/// One set for all layers: nothing is read again once the next layer has begun.
LayerActivations ForwardPass::activations() const {
  const auto rows = [this](const Mat& activation) { return activation.row_range(0, rows_); };
  return {.residual = rows(residual_),
          .attention_in = rows(normed_),
          .qkv = rows(qkv_),
          .attended = rows(attended_),
          .lse = {},
          .middle = rows(residual_),
          .mlp_in = rows(normed_),
          .gate_up = rows(gate_up_),
          .activated = rows(activated_),
          .delta = rows(delta_)};
}

void ForwardPass::run(const Batch& batch, KvCache& cache) {
  rows_ = batch.rows();
  check(rows_ > 0 && rows_ <= max_rows_, "batch rows within the activation buffer");
  const LayerActivations out = activations();
  backend_.embed(out.residual, *model_.embedding, batch.token_ids);
  for (int layer = 0; layer < model_.config.num_layers; ++layer) {
    const ConstMat delta = layer == 0 ? ConstMat() : ConstMat(out.delta);  // the first has nothing to add yet
    layers_.run(layer, batch, cache, layer, out.residual, delta, out);
  }
  backend_.add(out.residual, out.delta);
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
