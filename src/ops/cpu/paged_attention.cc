#include "ops/cpu/paged_attention.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

constexpr int kItemsPerThread = 4;  // where there is enough to do

/// Per query row: narrowed q, running sums, running totals, running maximum, position.
size_t scratch_bytes(int64_t rows, int head_dim) {
  const int64_t padded_dim = (int64_t{head_dim} + kLanes - 1) / kLanes * kLanes;
  return static_cast<size_t>((rows + kLanes) * (2 * padded_dim + kLanes + 2)) / kLanes * kLanes *
         sizeof(float);
}

}  // namespace

void PagedAttention::run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
                         std::span<const SequenceSpan> spans, const AttentionParams& params) {
  const KvCacheShape& shape = cache.shape();
  const int heads_per_kv = static_cast<int>(q.cols / shape.head_dim / shape.kv_heads);
  tokens_.clear();
  runs_.clear();
  tiles_.clear();
  for (const SequenceSpan& span : spans)
    plan_span(o, lse, q, span, std::max(1, kAttentionRows / heads_per_kv), params.window);
  plan_items(shape.kv_heads, heads_per_kv);
  const size_t member_bytes = scratch_bytes(std::max(kAttentionRows, heads_per_kv), shape.head_dim);
  std::byte* scratch = scratch_.at_least(member_bytes * static_cast<size_t>(pool_.size()));
  queue_.reset(static_cast<int64_t>(items_.size()));
  pool_.run([&](int member) {
    queue_.drain([&](int64_t i) {
      const Item& item = items_[static_cast<size_t>(i)];
      const Tile& tile = tiles_[static_cast<size_t>(item.tile)];
      cache.kernels().attention({
          .pages_base = cache.head(layer, 0, 0),
          .page_stride = cache.page_stride(),
          .head_stride = cache.head_stride(),
          .value_offset = cache.value_offset(),
          .head_dim = shape.head_dim,
          .heads = heads_per_kv,
          .kv_head_begin = item.kv_head_begin,
          .kv_head_end = item.kv_head_end,
          .tokens = tokens_.data() + tile.token_begin,
          .token_count = tile.token_count,
          .runs = runs_.data() + tile.run_begin,
          .run_count = tile.run_count,
          .scale = params.scale,
          .softcap = params.softcap,
          .window = params.window,
          .scratch = scratch + member_bytes * static_cast<size_t>(member),
      });
    });
  });
}

void PagedAttention::plan_span(Mat o, Mat lse, ConstMat q, const SequenceSpan& span, int tile_tokens,
                               int window) {
  for (int begin = 0; begin < span.row_count; begin += tile_tokens) {
    const int tokens = std::min(tile_tokens, span.row_count - begin);
    const int first_position = span.start_position + begin;
    const int first_key = window > 0 ? std::max(0, first_position - window + 1) : 0;
    const int first_page = first_key / (kPageTokens * kAttentionPages) * kAttentionPages;
    const int last_page = (first_position + tokens - 1) / kPageTokens;
    tiles_.push_back({.token_begin = static_cast<int>(tokens_.size()),
                      .token_count = tokens,
                      .run_begin = static_cast<int>(runs_.size()),
                      .run_count = 1,
                      .cost = int64_t{tokens} * (last_page + 1 - first_page)});
    runs_.push_back({.pages = span.pages.data(),
                     .page_begin = first_page,
                     .page_end = last_page + 1,
                     .token_begin = 0,
                     .token_end = tokens});
    for (int i = 0; i < tokens; ++i) {
      const int64_t row = span.row_begin + begin + i;
      tokens_.push_back({.q = q.row(row),
                         .o = o.row(row),
                         .lse = lse.data != nullptr ? lse.row(row) : nullptr,
                         .position = first_position + i});
    }
  }
}

/// Small tiles take several kv heads, whose pages then come from memory in long stretches, as long as that
/// leaves the threads enough items to share.
void PagedAttention::plan_items(int kv_heads, int heads_per_kv) {
  items_.clear();
  const auto tile_count = static_cast<int>(tiles_.size());
  const int shared = std::max(1, tile_count * kv_heads / (kItemsPerThread * pool_.size()));
  for (int t = 0; t < tile_count; ++t) {
    const Tile& tile = tiles_[static_cast<size_t>(t)];
    const int fitting = std::max(1, kAttentionRows / (tile.token_count * heads_per_kv));
    const int heads = std::min({fitting, shared, kv_heads});
    for (int begin = 0; begin < kv_heads; begin += heads) {
      const int end = std::min(begin + heads, kv_heads);
      items_.push_back({t, begin, end, tile.cost * (end - begin)});
    }
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
}

}  // namespace polylora::cpu
