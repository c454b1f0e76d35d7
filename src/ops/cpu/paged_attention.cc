#include "ops/cpu/paged_attention.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

/// Per query row: narrowed q, running sums, scores, probabilities, running totals, running maximum.
size_t scratch_bytes(int rows, int head_dim) {
  const int64_t padded_dim = (int64_t{head_dim} + kLanes - 1) / kLanes * kLanes;
  return static_cast<size_t>(rows * (2 * padded_dim + 4 * kLanes)) * sizeof(float);
}

}  // namespace

void PagedAttention::run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
                         std::span<const SequenceSpan> spans, const AttentionParams& params) {
  const KvCacheShape& shape = cache.shape();
  const int heads_per_kv = static_cast<int>(q.cols / shape.head_dim / shape.kv_heads);
  plan(spans, shape.kv_heads, heads_per_kv, params.window);
  const size_t member_bytes = scratch_bytes(std::max(kAttentionRows, heads_per_kv), shape.head_dim);
  std::byte* scratch = scratch_.at_least(member_bytes * static_cast<size_t>(pool_.size()));
  const auto kernel = shape.dtype == DType::kBf16 ? kernels_.attention_bf16 : kernels_.attention_f32;
  queue_.reset(static_cast<int64_t>(items_.size()));
  pool_.run([&](int member) {
    queue_.drain([&](int64_t i) {
      const Item& item = items_[static_cast<size_t>(i)];
      const int64_t row = item.span->row_begin + item.token_begin;
      const int64_t column = int64_t{item.kv_head} * heads_per_kv * shape.head_dim;
      kernel({
          .pages_base = cache.head(layer, 0, item.kv_head),
          .page_stride = cache.page_stride(),
          .value_offset = cache.value_offset(),
          .pages = item.span->pages.data(),
          .head_dim = shape.head_dim,
          .heads = heads_per_kv,
          .tokens = item.tokens,
          .first_position = item.span->start_position + item.token_begin,
          .q = q.row(row) + column,
          .q_stride = q.stride,
          .o = o.row(row) + column,
          .o_stride = o.stride,
          .lse = lse.data != nullptr ? lse.row(row) + item.kv_head * heads_per_kv : nullptr,
          .lse_stride = lse.stride,
          .scale = params.scale,
          .softcap = params.softcap,
          .window = params.window,
          .scratch = scratch + member_bytes * static_cast<size_t>(member),
      });
    });
  });
}

void PagedAttention::plan(std::span<const SequenceSpan> spans, int kv_heads, int heads_per_kv, int window) {
  items_.clear();
  const int tile_tokens = std::max(1, kAttentionRows / heads_per_kv);
  for (const SequenceSpan& span : spans) {
    for (int begin = 0; begin < span.row_count; begin += tile_tokens) {
      const int tokens = std::min(tile_tokens, span.row_count - begin);
      const int keys = span.start_position + begin + tokens;
      const int visible = window > 0 ? std::min(keys, window + tokens) : keys;
      const int64_t cost = int64_t{tokens} * (visible + kPageTokens - 1) / kPageTokens;
      for (int head = 0; head < kv_heads; ++head) items_.push_back({&span, head, begin, tokens, cost});
    }
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
}

}  // namespace polylora::cpu
