// Attention over KV pages for a batch of sequences of any lengths.
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Work items are tiles of query tokens with some kv heads, the most expensive first, so that the threads
/// finish together whatever mix of prefill chunks and decode rows the batch holds. A tile holds consecutive
/// tokens of a sequence, or one token each of sequences that begin with the same pages (a prompt that they
/// share): those pages are then read once for the tile.
class PagedAttention {
 public:
  explicit PagedAttention(ThreadPool& pool) : pool_(pool) {}

  /// lse may be empty.
  void run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
           std::span<const SequenceSpan> spans, const AttentionParams& params);

 private:
  struct Tile {
    int query_begin;  // in queries_
    int tokens;
    int shared_pages;
    int64_t cost;  // pages that its rows see
  };
  struct Item {
    Tile tile;
    int kv_head_begin;
    int kv_head_end;

    int64_t cost() const { return tile.cost * (kv_head_end - kv_head_begin); }
  };

  /// The query tokens of a call, one after the other in memory.
  struct Rows {
    Mat o, lse;
    ConstMat q;
  };

  void plan(const Rows& rows, std::span<const SequenceSpan> spans, int kv_heads, int heads_per_kv,
            int window);
  void add_tokens(const Rows& rows, const SequenceSpan& span, int most_tokens, int window);
  void add_decodes(const Rows& rows, int most_tokens);
  void add_query(const Rows& rows, const SequenceSpan& span, int token);

  ThreadPool& pool_;
  std::vector<AttentionQuery> queries_;
  std::vector<const SequenceSpan*> decodes_;
  std::vector<Tile> tiles_;
  std::vector<Item> items_;
  WorkQueue queue_;
  Scratch scratch_;
};

}  // namespace polylora::cpu
