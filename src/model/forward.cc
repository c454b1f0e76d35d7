#include "model/forward.h"

#include <algorithm>

#include "base/error.h"

namespace polylora {
namespace {

/// The matrix that the group's adapter has instead of the base's, or the base's. `part` is what of the
/// adapter holds it.
template <typename Part>
const Weight& own_or(const Weight& base, const Part& (Adapter::*part)() const, const AdapterGroup& group) {
  for (const Adapter::Term& term : group.terms()) {
    const Weight* own = (term.adapter->*part)().full.get();
    if (own != nullptr) return *own;
  }
  return base;
}

/// Calls fn(weight, groups) for runs of adjacent groups that use the same matrix.
template <typename WeightOf, typename Fn>
void for_each_run(std::span<const AdapterGroup> groups, WeightOf weight_of, Fn fn) {
  for (size_t begin = 0; begin < groups.size();) {
    const Weight& weight = weight_of(groups[begin]);
    size_t end = begin + 1;
    while (end < groups.size() && &weight_of(groups[end]) == &weight) ++end;
    fn(weight, groups.subspan(begin, end - begin));
    begin = end;
  }
}

}  // namespace

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
  if (config.has_experts()) {
    for (Mat* mat : {&expert_in_, &expert_out_}) arena_.add(*mat, max_rows, config.hidden_size);
    arena_.add(router_logits_, max_rows, config.experts.count);
  }
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
          .projected = rows(qkv_),
          .qkv = rows(qkv_),
          .attended = rows(attended_),
          .lse = {},
          .attention_out = rows(delta_),
          .middle = rows(residual_),
          .mlp_in = rows(normed_),
          .gate_up = rows(gate_up_),
          .activated = rows(activated_),
          .mlp_out = rows(delta_),
          .delta = rows(delta_),
          .router_logits = rows(router_logits_),
          .expert_in = rows(expert_in_),
          .expert_out = rows(expert_out_)};
}

void ForwardPass::run(const Batch& batch, KvCache& cache) {
  rows_ = batch.rows();
  check(rows_ > 0 && rows_ <= max_rows_, "batch rows within the activation buffer");
  const LayerActivations out = activations();
  groups_ = batch.groups;
  embed(batch, out.residual);
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

  const std::vector<AdapterGroup> groups = groups_among(groups_, rows);
  const auto weight_of = [this](const AdapterGroup& group) -> const Weight& {
    return own_or(model_.output_embedding(), &Adapter::lm_head, group);
  };
  for_each_run(groups, weight_of, [&](const Weight& weight, std::span<const AdapterGroup> run) {
    const int begin = run.front().row_begin, end = run.back().row_end;
    lora_groups_.clear();
    for (const AdapterGroup& group : run) {
      for (const Adapter::Term& term : group.terms()) {
        const LoraWeight* lora = term.adapter->lm_head().lora.get();
        if (lora != nullptr)
          lora_groups_.push_back({group.row_begin - begin, group.row_end - begin, lora, term.factor});
      }
    }
    check(weight.rows() <= out.cols, "room for the logits of an adapter's own lm_head");
    const Mat to = out.row_range(begin, end - begin).columns(0, weight.rows());
    backend_.linear(to, normed.row_range(begin, end - begin), weight, {}, lora_groups_);
  });
  if (model_.config.final_logit_softcap > 0.0f) backend_.softcap(out, model_.config.final_logit_softcap);
}

void ForwardPass::embed(const Batch& batch, Mat out) {
  const std::span<const int32_t> ids = batch.token_ids;
  const auto ids_of = [&](int begin, int end) {
    return ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  const auto weight_of = [this](const AdapterGroup& group) -> const Weight& {
    return own_or(*model_.embedding, &Adapter::embedding, group);
  };
  for_each_run(batch.groups, weight_of, [&](const Weight& weight, std::span<const AdapterGroup> run) {
    const int begin = run.front().row_begin, end = run.back().row_end;
    backend_.embed(out.row_range(begin, end - begin), weight, ids_of(begin, end));
  });
  for (const AdapterGroup& group : batch.groups) {
    for (const Adapter::Term& term : group.terms()) {
      const AdapterEmbedding& embedding = term.adapter->embedding();
      if (embedding.a != nullptr)
        add_embedding_pair(embedding, term.factor, ids_of(group.row_begin, group.row_end),
                           group.rows_of(out));
    }
  }
  if (!model_.embedding_gain.empty()) backend_.scale_columns(out, model_.embedding_gain);
}

/// out += factor · A[:, id]ᵀ·Bᵀ. A token's column of A is a row of an embedding of width r.
void ForwardPass::add_embedding_pair(const AdapterEmbedding& embedding, float factor,
                                     std::span<const int32_t> ids, Mat out) {
  const int64_t rank = embedding.a->cols();
  hidden_.resize(std::max(hidden_.size(), static_cast<size_t>(out.rows * rank)));
  const Mat hidden(hidden_.data(), out.rows, rank);
  const Mat added = delta_.row_range(0, out.rows);  // free until the first layer
  backend_.embed(hidden, *embedding.a, ids);
  backend_.linear(added, hidden, *embedding.b, {});
  if (factor != 1.0f) {
    const std::vector<float> factors(static_cast<size_t>(added.cols), factor);
    backend_.scale_columns(added, factors);
  }
  backend_.add(out, added);
}

}  // namespace polylora
