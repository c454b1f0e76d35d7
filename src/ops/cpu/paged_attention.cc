#include "ops/cpu/paged_attention.h"

#include <algorithm>
#include <compare>

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

/// Pages of the whole blocks that the query at `position` sees.
int whole_blocks(int position) {
  return (position + 1) / (kPageTokens * kAttentionPages) * kAttentionPages;
}

/// Pages of whole blocks with which both sequences begin, at most `most`.
int common_pages(const SequenceSpan& a, const SequenceSpan& b, int most) {
  most = std::min(most, whole_blocks(b.start_position));
  const auto end = a.pages.begin() + most;
  const auto differs = std::mismatch(a.pages.begin(), end, b.pages.begin()).first;
  return static_cast<int>(differs - a.pages.begin()) / kAttentionPages * kAttentionPages;
}

/// Sequences that begin alike stand next to each other.
bool before_by_pages(const SequenceSpan* a, const SequenceSpan* b) {
  const auto order = std::lexicographical_compare_three_way(a->pages.begin(), a->pages.end(),
                                                            b->pages.begin(), b->pages.end());
  return order != 0 ? order < 0 : a->row_begin < b->row_begin;
}

}  // namespace

void PagedAttention::run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
                         std::span<const SequenceSpan> spans, const AttentionParams& params) {
  const KvCacheShape& shape = cache.shape();
  const int heads_per_kv = static_cast<int>(q.cols / shape.head_dim / shape.kv_heads);
  plan({o, lse, q}, spans, shape.kv_heads, heads_per_kv, params.window);
  const size_t member_bytes = scratch_bytes(std::max(kAttentionRows, heads_per_kv), shape.head_dim);
  std::byte* scratch = scratch_.at_least(member_bytes * static_cast<size_t>(pool_.size()));
  queue_.reset(static_cast<int64_t>(items_.size()));
  pool_.run([&](int member) {
    queue_.drain([&](int64_t i) {
      const Item& item = items_[static_cast<size_t>(i)];
      cache.kernels().attention({
          .pages_base = cache.head(layer, 0, 0),
          .page_stride = cache.page_stride(),
          .head_stride = cache.head_stride(),
          .value_offset = cache.value_offset(),
          .head_dim = shape.head_dim,
          .heads = heads_per_kv,
          .kv_head_begin = item.kv_head_begin,
          .kv_head_end = item.kv_head_end,
          .queries = queries_.data() + item.tile.query_begin,
          .tokens = item.tile.tokens,
          .shared_pages = item.tile.shared_pages,
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
void PagedAttention::plan(const Rows& rows, std::span<const SequenceSpan> spans, int kv_heads,
                          int heads_per_kv, int window) {
  queries_.clear();
  decodes_.clear();
  tiles_.clear();
  items_.clear();
  const int most_tokens = std::max(1, kAttentionRows / heads_per_kv);
  for (const SequenceSpan& span : spans) {
    if (span.row_count == 1 && window == 0)
      decodes_.push_back(&span);
    else
      add_tokens(rows, span, most_tokens, window);
  }
  const int64_t wanted_items = int64_t{kItemsPerThread} * pool_.size();
  const int64_t sharing = static_cast<int64_t>(decodes_.size()) * kv_heads / wanted_items;
  add_decodes(rows, static_cast<int>(std::clamp<int64_t>(sharing, 1, most_tokens)));

  const int64_t affordable =
      std::max<int64_t>(1, static_cast<int64_t>(tiles_.size()) * kv_heads / wanted_items);
  for (const Tile& tile : tiles_) {
    const int fitting = std::max(1, kAttentionRows / (tile.tokens * heads_per_kv));
    const int heads = static_cast<int>(std::min<int64_t>({fitting, affordable, kv_heads}));
    for (int head = 0; head < kv_heads; head += heads)
      items_.push_back({tile, head, std::min(head + heads, kv_heads)});
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost() > b.cost(); });
}

void PagedAttention::add_query(const Rows& rows, const SequenceSpan& span, int token) {
  const int row = span.row_begin + token;
  queries_.push_back({rows.q.row(row), rows.o.row(row),
                      rows.lse.data != nullptr ? rows.lse.row(row) : nullptr, span.pages.data(),
                      span.start_position + token});
}

void PagedAttention::add_tokens(const Rows& rows, const SequenceSpan& span, int most_tokens, int window) {
  for (int begin = 0; begin < span.row_count; begin += most_tokens) {
    const int tokens = std::min(most_tokens, span.row_count - begin);
    const int keys = span.start_position + begin + tokens;
    const int visible = window > 0 ? std::min(keys, window + tokens) : keys;
    tiles_.push_back(
        {static_cast<int>(queries_.size()), tokens, kAllPages, tokens * ceil_div(visible, kPageTokens)});
    for (int token = begin; token < begin + tokens; ++token) add_query(rows, span, token);
  }
}

/// One token each of decodes_, at most `most_tokens` in a tile. A sequence joins a tile when that does not
/// make the pages which the tile saves fewer: shared pages times all its queries but one.
void PagedAttention::add_decodes(const Rows& rows, int most_tokens) {
  if (most_tokens > 1) std::sort(decodes_.begin(), decodes_.end(), before_by_pages);
  for (size_t begin = 0; begin < decodes_.size();) {
    size_t end = begin + 1;
    int shared = whole_blocks(decodes_[begin]->start_position);
    for (; end < decodes_.size() && end - begin < static_cast<size_t>(most_tokens); ++end) {
      const int common = common_pages(*decodes_[begin], *decodes_[end], shared);
      const auto members = static_cast<int64_t>(end - begin);
      if (common == 0 || common * members < shared * (members - 1)) break;
      shared = common;
    }
    const auto by_position = [](const SequenceSpan* a, const SequenceSpan* b) {
      return a->start_position < b->start_position;
    };
    std::stable_sort(decodes_.begin() + static_cast<std::ptrdiff_t>(begin),
                     decodes_.begin() + static_cast<std::ptrdiff_t>(end), by_position);
    Tile tile{static_cast<int>(queries_.size()), static_cast<int>(end - begin), shared, 0};
    if (tile.tokens == 1) tile.shared_pages = kAllPages;
    for (; begin < end; ++begin) {
      add_query(rows, *decodes_[begin], 0);
      tile.cost += decodes_[begin]->start_position / kPageTokens + 1;
    }
    tiles_.push_back(tile);
  }
}

}  // namespace polylora::cpu
