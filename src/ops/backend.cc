#include "ops/backend.h"

#include <cstdlib>

#include "base/error.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/ref_backend.h"
#include "ops/shape_checks.h"

namespace polylora {
namespace {

void check_spans(const KvCache& cache, int layer, int64_t batch_rows, std::span<const SequenceSpan> spans) {
  check(layer >= 0 && layer < cache.shape().layers, "layer of the KV cache");
  for (const SequenceSpan& span : spans) {
    check(span.row_begin >= 0 && span.row_count >= 0 && span.row_begin + span.row_count <= batch_rows,
          "rows of a sequence span");
    const int64_t tokens = int64_t{span.start_position} + span.row_count;
    check(span.start_position >= 0 && tokens <= static_cast<int64_t>(span.pages.size()) * kKvPageSize,
          "pages of a sequence span");
    for (const int32_t page : span.pages)
      check(page >= 0 && page < cache.shape().pages, "page of the KV cache");
  }
}

void check_groups(std::span<const LoraGroup> groups, int64_t batch_rows) {
  int last_begin = 0;
  int last_end = 0;
  for (const LoraGroup& group : groups) {
    const bool same_rows = group.row_begin == last_begin && group.row_end == last_end;
    check(same_rows || group.row_begin >= last_end, "LoRA groups ascend, with rows of their own or the same");
    check(group.row_end >= group.row_begin && group.row_end <= batch_rows, "rows of a LoRA group");
    last_begin = group.row_begin;
    last_end = group.row_end;
  }
}

}  // namespace

std::unique_ptr<Weight> Backend::pack_weight(const WeightSource& source, WeightFormat format) {
  check(source.cols > 0 && !source.rows.empty(), "a weight has rows and columns");
  const bool quantised = format == WeightFormat::kQ8 || format == WeightFormat::kQ4;
  if (quantised && source.cols % 32 != 0) {
    fail(ErrorCode::kUnsupported, "{} weights need an input width that is a multiple of 32, not {}",
         weight_format_name(format), source.cols);
  }
  for (const WeightSource::Row& row : source.rows) {
    check(row.matrix != nullptr || (row.data != nullptr && source.cols % dtype_block_size(row.dtype) == 0),
          "row of a weight");
  }
  return do_pack_weight(source, format);
}

std::unique_ptr<LoraWeight> Backend::pack_lora(const LoraSource& source, DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBf16 || dtype == DType::kI8,
        "LoRA weights are kept as F32, BF16 or I8");
  check(source.k > 0 && source.n > 0, "LoRA widths");
  for (const LoraPairSource& pair : source.pairs) {
    check(pair.rank > 0 && pair.n_begin >= 0 && pair.n_count > 0 && pair.n_begin + pair.n_count <= source.n,
          "LoRA pair shape");
    check(pair.a != nullptr && pair.b != nullptr && dtype_block_size(pair.dtype) == 1, "LoRA pair data");
  }
  return do_pack_lora(source, dtype);
}

std::unique_ptr<KvCache> Backend::make_kv_cache(const KvCacheShape& shape) {
  check(shape.dtype == DType::kF32 || shape.dtype == DType::kBf16 || shape.dtype == DType::kI8,
        "a KV cache is F32, BF16 or I8");
  if (shape.dtype == DType::kI8 && shape.head_dim > kMaxInt8HeadDim) {
    fail(ErrorCode::kUnsupported, "head_dim {}: an int8 KV cache holds heads of up to {}", shape.head_dim,
         kMaxInt8HeadDim);
  }
  check(shape.layers > 0 && shape.pages > 0 && shape.kv_heads > 0 && shape.head_dim > 0 &&
            shape.head_dim % 2 == 0,
        "shape of a KV cache");
  return do_make_kv_cache(shape);
}

void Backend::embed(Mat y, const Weight& w, std::span<const int32_t> ids) {
  check(has_shape(y, static_cast<int64_t>(ids.size()), w.cols()), "embed: y is [T,D]");
  for (const int32_t id : ids) check(id >= 0 && id < w.rows(), "embed: token id inside the vocabulary");
  do_embed(y, w, ids);
}

void Backend::rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain, float eps) {
  check(has_shape(x, x.rows, x.cols) && has_shape(y, x.rows, x.cols), "rmsnorm: x and y are [T,D]");
  check(!gain.empty() && x.cols % static_cast<int64_t>(gain.size()) == 0, "rmsnorm: gain is [D]");
  check((delta.data == nullptr) == (sum.data == nullptr) || x.rows == 0, "rmsnorm: sum goes with delta");
  if (delta.data != nullptr) {
    check(static_cast<int64_t>(gain.size()) == x.cols, "rmsnorm: a sum is [T,D]");
    check(has_shape(delta, x.rows, x.cols) && has_shape(sum, x.rows, x.cols),
          "rmsnorm: delta and sum are [T,D]");
  }
  do_rmsnorm(y, sum, x, delta, gain, eps);
}

void Backend::linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
                     std::span<const LoraGroup> groups) {
  check(has_shape(x, x.rows, w.cols()), "linear: x is [T,K]");
  check(has_shape(y, x.rows, w.rows()), "linear: y is [T,N]");
  check(bias.empty() || static_cast<int64_t>(bias.size()) == w.rows(), "linear: bias is [N]");
  check_groups(groups, x.rows);
  if (x.rows > 0) do_linear(y, x, w, bias, groups);
}

void Backend::lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups) {
  check(has_shape(x, x.rows, x.cols) && has_shape(y, x.rows, y.cols), "lora_delta: x is [T,K], y is [T,N]");
  check_groups(groups, x.rows);
  if (!groups.empty()) do_lora_delta(y, x, groups);
}

void Backend::rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table) {
  check_rope(q, k, head_dim, positions, table);
  do_rope(q, k, head_dim, positions, table);
}

void Backend::kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v,
                       std::span<const SequenceSpan> spans) {
  const int64_t width = int64_t{cache.shape().kv_heads} * cache.shape().head_dim;
  check(has_shape(k, k.rows, width) && has_shape(v, k.rows, width), "kv_write: k and v are [T,G*E]");
  check_spans(cache, layer, k.rows, spans);
  do_kv_write(cache, layer, k, v, spans);
}

void Backend::attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer,
                        std::span<const SequenceSpan> spans, const AttentionParams& params) {
  const int64_t group_width = int64_t{cache.shape().kv_heads} * cache.shape().head_dim;
  check(has_shape(q, q.rows, q.cols) && has_shape(o, q.rows, q.cols), "attention: q and o are [T,H*E]");
  check(q.cols > 0 && q.cols % group_width == 0, "attention: query heads are a multiple of kv heads");
  check(lse.data == nullptr || has_shape(lse, q.rows, q.cols / cache.shape().head_dim),
        "attention: lse is [T,H]");
  check_spans(cache, layer, q.rows, spans);
  do_attention(o, lse, q, cache, layer, spans, params);
}

void Backend::glu(Mat y, ConstMat gate_up, GluActivation activation) {
  check(has_shape(gate_up, y.rows, 2 * y.cols) && has_shape(y, y.rows, y.cols),
        "glu: y is [T,F], gate_up [T,2F]");
  do_glu(y, gate_up, activation);
}

void Backend::softcap(Mat y, float cap) {
  check(has_shape(y, y.rows, y.cols) && cap > 0.0f, "softcap: y is [T,N], cap is positive");
  do_softcap(y, cap);
}

void Backend::add(Mat y, ConstMat x) {
  check(has_shape(y, y.rows, y.cols) && has_shape(x, y.rows, y.cols), "add: x and y are [T,D]");
  do_add(y, x);
}

void Backend::gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows, std::span<const float> scales) {
  check(has_shape(y, static_cast<int64_t>(rows.size()), x.cols), "gather_rows: y is [M,D]");
  check(scales.empty() || scales.size() == rows.size(), "gather_rows: scales are [M]");
  for (const int32_t row : rows) check(row >= 0 && row < x.rows, "gather_rows: row of x");
  do_gather_rows(y, x, rows, scales);
}

void Backend::scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows, std::span<const float> scales) {
  check(has_shape(x, static_cast<int64_t>(rows.size()), y.cols), "scatter_add: x is [M,D]");
  check(scales.empty() || scales.size() == rows.size(), "scatter_add: scales are [M]");
  for (const int32_t row : rows) check(row >= 0 && row < y.rows, "scatter_add: row of y");
  do_scatter_add(y, x, rows, scales);
}

void Backend::clear(Mat y) {
  check(has_shape(y, y.rows, y.cols), "clear: y is [T,D]");
  do_clear(y);
}

Routing Backend::route(ConstMat logits, const RouterParams& params) {
  check(has_shape(logits, logits.rows, logits.cols), "route: logits are [T,E]");
  check(params.per_token > 0 && params.per_token <= logits.cols, "route: a row goes to some of the experts");
  return do_route(logits, params);
}

void Backend::scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) {
  check(has_shape(y, y.rows, static_cast<int64_t>(gain.size())), "scale_columns: y is [T,N], gain [N]");
  check(shift.empty() || shift.size() == gain.size(), "scale_columns: shift is [N]");
  do_scale_columns(y, gain, shift);
}

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  return make_training_backend(options);
}

std::unique_ptr<TrainingBackend> make_training_backend(const BackendOptions& options) {
  if (options.threads < 0)
    fail(ErrorCode::kInvalidArgument, "{} threads: give 0 (all) or more", options.threads);
  if (options.name == "ref") return make_ref_backend();
  if (options.name != "cpu") {
    fail(ErrorCode::kInvalidArgument, "unknown backend \"{}\": choose cpu or ref", options.name);
  }
  const char* isa = std::getenv("POLYLORA_ISA");
  return make_cpu_backend(isa != nullptr ? isa : "", options.threads);
}

}  // namespace polylora
