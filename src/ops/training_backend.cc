#include "ops/training_backend.h"

#include "base/error.h"
#include "ops/shape_checks.h"

namespace polylora {

void TrainingBackend::linear_dx(Mat dx, ConstMat dy, const Weight& w, bool accumulate) {
  check(has_shape(dy, dy.rows, w.rows()), "linear_dx: dy is [T,N]");
  check(has_shape(dx, dy.rows, w.cols()), "linear_dx: dx is [T,K]");
  if (dy.rows > 0) do_linear_dx(dx, dy, w, accumulate);
}

void TrainingBackend::lora_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs,
                                    DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBf16, "lora_backward: F32 or BF16");
  check(has_shape(x, dy.rows, x.cols) && has_shape(dy, dy.rows, dy.cols), "lora_backward: x [T,K], dy [T,N]");
  check(dx.data == nullptr || has_shape(dx, x.rows, x.cols), "lora_backward: dx is [T,K]");
  for (const LoraGradient& pair : pairs) {
    check(pair.n_begin >= 0 && pair.n_count > 0 && pair.n_begin + pair.n_count <= dy.cols,
          "lora_backward: columns of a pair");
    const int64_t rank = pair.a.rows;
    check(rank > 0 && has_shape(pair.a, rank, x.cols) && has_shape(pair.da, rank, x.cols),
          "lora_backward: a and da are [R,K]");
    check(has_shape(pair.b, pair.n_count, rank) && has_shape(pair.db, pair.n_count, rank),
          "lora_backward: b and db are [N,R]");
  }
  if (dy.rows > 0 && !pairs.empty()) do_lora_backward(dx, dy, x, pairs, dtype);
}

void TrainingBackend::rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain,
                                       float eps) {
  check(has_shape(dx, x.rows, x.cols) && has_shape(dy, x.rows, x.cols) && has_shape(x, x.rows, x.cols),
        "rmsnorm_backward: dx, dy and x are [T,D]");
  check(!gain.empty() && x.cols % static_cast<int64_t>(gain.size()) == 0, "rmsnorm_backward: gain is [D]");
  do_rmsnorm_backward(dx, dy, x, gain, eps);
}

void TrainingBackend::rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions,
                                    RopeTable table) {
  check_rope(dq, dk, head_dim, positions, table);
  do_rope_backward(dq, dk, head_dim, positions, table);
}

void TrainingBackend::attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse,
                                         ConstMat q, ConstMat k, ConstMat v, int head_dim,
                                         std::span<const SequenceSpan> spans, const AttentionParams& params,
                                         DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBf16, "attention_backward: F32 or BF16");
  const int64_t rows = q.rows;
  check(
      head_dim > 0 && q.cols % head_dim == 0 && k.cols > 0 && q.cols % k.cols == 0 && k.cols % head_dim == 0,
      "attention_backward: query heads are a multiple of kv heads");
  for (const ConstMat& m : {ConstMat(dq), d_o, o, q})
    check(has_shape(m, rows, q.cols), "attention_backward: dq, d_o, o, q are [T,H*E]");
  for (const ConstMat& m : {ConstMat(dk), ConstMat(dv), k, v})
    check(has_shape(m, rows, k.cols), "attention_backward: dk, dv, k, v are [T,G*E]");
  check(has_shape(lse, rows, q.cols / head_dim), "attention_backward: lse is [T,H]");
  for (const SequenceSpan& span : spans) {
    check(span.row_begin >= 0 && span.row_count >= 0 && span.row_begin + span.row_count <= rows &&
              span.start_position == 0,
          "attention_backward: spans are whole sequences");
  }
  do_attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, head_dim, spans, params, dtype);
}

void TrainingBackend::glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) {
  check(has_shape(dy, dy.rows, dy.cols) && has_shape(gate_up, dy.rows, 2 * dy.cols) &&
            has_shape(dgate_up, dy.rows, 2 * dy.cols),
        "glu_backward: dy is [T,F], gate_up and dgate_up [T,2F]");
  do_glu_backward(dgate_up, dy, gate_up, activation);
}

void TrainingBackend::softcap_backward(Mat dy, ConstMat y, float cap) {
  check(has_shape(dy, y.rows, y.cols) && cap > 0.0f, "softcap_backward: dy and y are [T,N], cap is positive");
  do_softcap_backward(dy, y, cap);
}

void TrainingBackend::cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                                    std::span<const float> weights) {
  const size_t rows = loss.size();
  check(has_shape(logits, static_cast<int64_t>(rows), logits.cols) && targets.size() == rows &&
            weights.size() == rows,
        "cross_entropy: loss, targets and weights are [M], logits [M,V]");
  for (const int32_t target : targets)
    check(target >= 0 && target < logits.cols, "cross_entropy: target inside the vocabulary");
  do_cross_entropy(loss, logits, targets, weights);
}

void TrainingBackend::scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows) {
  check(has_shape(x, static_cast<int64_t>(rows.size()), y.cols), "scatter_rows: x is [M,D]");
  for (const int32_t row : rows) check(row >= 0 && row < y.rows, "scatter_rows: row of y");
  do_scatter_rows(y, x, rows);
}

void TrainingBackend::dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) {
  check(has_shape(y, x.rows, x.cols) && static_cast<int64_t>(keys.rows.size()) == x.rows,
        "dropout: x and y are [T,D], keys [T]");
  check(p >= 0.0f && p < 1.0f, "dropout: p in [0, 1)");
  do_dropout(y, x, p, keys, accumulate);
}

void TrainingBackend::add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) {
  check(has_shape(y, static_cast<int64_t>(scale.size()), y.cols) && keys.rows.size() == scale.size(),
        "add_noise: y is [T,D], scale and keys [T]");
  do_add_noise(y, scale, keys);
}

void TrainingBackend::embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids) {
  check(has_shape(dy, static_cast<int64_t>(ids.size()), dw.cols), "embed_backward: dy is [T,D]");
  for (const int32_t id : ids) check(id >= 0 && id < dw.rows, "embed_backward: token id in the vocabulary");
  do_embed_backward(dw, dy, ids);
}

void TrainingBackend::linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBf16, "linear_dw: F32 or BF16");
  check(has_shape(dw, dy.cols, x.cols) && has_shape(dy, dy.rows, dy.cols) && has_shape(x, dy.rows, x.cols),
        "linear_dw: dw is [N,K], dy [T,N], x [T,K]");
  if (dy.rows > 0) do_linear_dw(dw, dy, x, dtype);
}

void TrainingBackend::column_dots(std::span<float> out, ConstMat a, ConstMat b) {
  const auto columns = static_cast<int64_t>(out.size());
  check(has_shape(a, a.rows, columns) && has_shape(b, a.rows, columns), "column_dots: a and b are [T,N]");
  do_column_dots(out, a, b);
}

void TrainingBackend::row_dots(std::span<float> out, ConstMat a, ConstMat b) {
  const auto rows = static_cast<int64_t>(out.size());
  check(has_shape(a, rows, a.cols) && has_shape(b, rows, a.cols), "row_dots: a and b are [T,N]");
  do_row_dots(out, a, b);
}

void TrainingBackend::route_backward(Mat d_logits, ConstMat logits, const Routing& routing,
                                     const RouterParams& params, std::span<const float> gains) {
  check(has_shape(logits, logits.rows, routing.experts()) && has_shape(d_logits, logits.rows, logits.cols),
        "route_backward: logits are [T,E]");
  check(gains.size() == routing.rows.size(), "route_backward: a gain for every entry");
  do_route_backward(d_logits, logits, routing, params, gains);
}

// --- optimizer and merge
// -----------------------------------------------------------------------------------------------------

void TrainingBackend::adamw(std::span<float> p, std::span<float> m, std::span<float> v,
                            std::span<const float> g, const AdamwParams& params) {
  check(m.size() == p.size() && v.size() == p.size() && g.size() == p.size(), "adamw: all are [n]");
  check(params.step >= 1, "adamw: steps count from 1");
  do_adamw(p, m, v, g, params);
}

double TrainingBackend::sum_squares(std::span<const float> x) {
  return do_sum_squares(x);
}

void TrainingBackend::lora_merge(Mat w, ConstMat a, ConstMat b, float scale) {
  check(has_shape(w, b.rows, a.cols) && has_shape(a, b.cols, w.cols) && has_shape(b, w.rows, a.rows),
        "lora_merge: w is [N,K], a [R,K], b [N,R]");
  do_lora_merge(w, a, b, scale);
}

}  // namespace polylora
