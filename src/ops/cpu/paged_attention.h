// Attention over KV pages for a batch of sequences of any lengths.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Work items are (sequence, query tokens, kv heads), the most expensive first, so that the threads finish
/// together whatever mix of prefill chunks and decode rows the batch holds.
class PagedAttention {
 public:
  explicit PagedAttention(ThreadPool& pool) : pool_(pool) {}

  /// lse may be empty.
  void run(Mat o, Mat lse, ConstMat q, const CpuKvCache& cache, int layer,
           std::span<const SequenceSpan> spans, const AttentionParams& params);

 private:
  struct Item {
    const SequenceSpan* span;
    int token_begin;  // within the span
    int tokens;
    int kv_head_begin;
    int kv_head_end;
    int64_t cost;  // tokens times pages times kv heads
  };

  void plan(std::span<const SequenceSpan> spans, int kv_heads, int heads_per_kv, int window);

  ThreadPool& pool_;
  std::vector<Item> items_;
  WorkQueue queue_;
  Scratch scratch_;
};

}  // namespace polylora::cpu
