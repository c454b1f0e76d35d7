#include "ops/cpu/paged_attention.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

constexpr int kItemsPerThread = 4;  // where there is enough to do

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Per query row: narrowed q, running sums, running totals, running maximum.
size_t scratch_bytes(int64_t rows, int head_dim) {
  const int64_t padded_dim = ceil_div(head_dim, kLanes) * kLanes;
  const int64_t floats = rows * (2 * padded_dim + kLanes + 1);
  return static_cast<size_t>(ceil_div(floats, kLanes) * kLanes) * sizeof(float);
}

}  // namespace

void PagedAttention::run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
                         std::span<const SequenceSpan> spans, const AttentionParams& params) {
  const KvCacheShape& shape = cache.shape();
  const int heads_per_kv = static_cast<int>(q.cols / shape.head_dim / shape.kv_heads);
  plan(spans, shape.kv_heads, heads_per_kv, params.window);
  const size_t member_bytes = scratch_bytes(std::max(kAttentionRows, heads_per_kv), shape.head_dim);
  std::byte* scratch = scratch_.at_least(member_bytes * static_cast<size_t>(pool_.size()));
  queue_.reset(static_cast<int64_t>(items_.size()));
  pool_.run([&](int member) {
    queue_.drain([&](int64_t i) {
      const Item& item = items_[static_cast<size_t>(i)];
      const int64_t row = item.span->row_begin + item.token_begin;
      cache.kernels().attention({
          .pages_base = cache.head(layer, 0, 0),
          .page_stride = cache.page_stride(),
          .head_stride = cache.head_stride(),
          .value_offset = cache.value_offset(),
          .pages = item.span->pages.data(),
          .head_dim = shape.head_dim,
          .heads = heads_per_kv,
          .kv_head_begin = item.kv_head_begin,
          .kv_head_end = item.kv_head_end,
          .tokens = item.tokens,
          .first_position = item.span->start_position + item.token_begin,
          .q = q.row(row),
          .q_stride = q.stride,
          .o = o.row(row),
          .o_stride = o.stride,
          .lse = lse.data != nullptr ? lse.row(row) : nullptr,
          .lse_stride = lse.stride,
          .scale = params.scale,
          .softcap = params.softcap,
          .window = params.window,
          .scratch = scratch + member_bytes * static_cast<size_t>(member),
      });
    });
  });
}

/// Tiles of few query rows (decoding) take several kv heads, whose pages then come from memory in long
/// stretches, as long as that leaves the threads enough items to share.
void PagedAttention::plan(std::span<const SequenceSpan> spans, int kv_heads, int heads_per_kv, int window) {
  items_.clear();
  const int tile_tokens = std::max(1, kAttentionRows / heads_per_kv);
  int64_t tiles = 0;
  for (const SequenceSpan& span : spans) tiles += ceil_div(span.row_count, tile_tokens);
  const int64_t affordable = std::max<int64_t>(1, tiles * kv_heads / (kItemsPerThread * pool_.size()));
  for (const SequenceSpan& span : spans) {
    for (int begin = 0; begin < span.row_count; begin += tile_tokens) {
      const int tokens = std::min(tile_tokens, span.row_count - begin);
      const int keys = span.start_position + begin + tokens;
      const int visible = window > 0 ? std::min(keys, window + tokens) : keys;
      const int64_t cost = tokens * ceil_div(visible, kPageTokens);
      const int fitting = std::max(1, kAttentionRows / (tokens * heads_per_kv));
      const int heads = static_cast<int>(std::min<int64_t>({fitting, affordable, kv_heads}));
      for (int head = 0; head < kv_heads; head += heads) {
        const int head_end = std::min(head + heads, kv_heads);
        items_.push_back({&span, begin, tokens, head, head_end, cost * (head_end - head)});
      }
    }
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
}

}  // namespace polylora::cpu
