// Attention over KV pages for a batch of sequences of any lengths.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Work items are (query tokens, kv heads), the most expensive first, so that the threads finish together
/// whatever mix of prefill chunks and decode rows the batch holds.
class PagedAttention {
 public:
  explicit PagedAttention(ThreadPool& pool) : pool_(pool) {}

  /// lse may be empty.
  void run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
           std::span<const SequenceSpan> spans, const AttentionParams& params);

 private:
  /// Tokens of a tile, each with all its heads, and the page runs that they walk.
  struct Tile {
    int token_begin;  // into tokens_
    int token_count;
    int run_begin;  // into runs_
    int run_count;
    int64_t cost;  // query tokens times pages
  };
  struct Item {
    int tile;
    int kv_head_begin;
    int kv_head_end;
    int64_t cost;
  };

  void plan_span(Mat o, Mat lse, ConstMat q, const SequenceSpan& span, int tile_tokens, int window);
  void plan_items(int kv_heads, int heads_per_kv);

  ThreadPool& pool_;
  std::vector<AttentionToken> tokens_;
  std::vector<AttentionRun> runs_;
  std::vector<Tile> tiles_;
  std::vector<Item> items_;
  WorkQueue queue_;
  Scratch scratch_;
};

}  // namespace polylora::cpu
