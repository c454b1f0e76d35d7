// Backward of attention for a batch of whole sequences of any lengths.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// The arguments of TrainingBackend::attention_backward but the spans.
struct AttentionGradient {
  Mat dq, dk, dv;
  ConstMat d_o, o, lse, q, k, v;
  int head_dim;
  DType dtype;
  AttentionParams params;
};

/// Three phases, each over a queue of items: keys and values are packed, once for all query heads that share
/// them; then (sequence, kv head, run of queries) are walked, the most expensive first, each summing its own
/// share of dk and dv; then the shares are added in ascending order of queries. How a sequence is cut depends
/// on its length alone, so that neither threads nor neighbours change a bit.
class AttentionBackwardDriver {
 public:
  AttentionBackwardDriver(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  void run(const AttentionGradient& g, std::span<const SequenceSpan> spans);

 private:
  /// A kv head of a sequence, and where its packed keys and its runs are.
  struct Head {
    const SequenceSpan* span;
    int kv_head;
    int64_t first_block;  // in the packed keys
    size_t first_run;
    size_t run_count;
  };
  /// Key block `block` of a head: an item of the first and of the last phase.
  struct Block {
    size_t head;
    int block;
  };
  struct Run {
    size_t head;
    int query_begin, query_end;
    int key_begin, key_end;  // whole blocks
    int64_t sums;            // where its dk begins, in rows of E padded floats; dv follows
    int64_t cost;
  };

  void plan(std::span<const SequenceSpan> spans, int kv_heads, int window);
  void plan_runs(size_t head, int window);
  void pack(const AttentionGradient& g, const Block& block) const;
  void walk(const AttentionGradient& g, const Run& run, std::byte* scratch) const;
  void add_runs(const AttentionGradient& g, const Block& block) const;
  size_t block_bytes(const AttentionGradient& g) const;

  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<Head> heads_;
  std::vector<Block> blocks_;
  std::vector<Run> runs_;
  std::vector<size_t> order_;  // runs, the most expensive first
  int64_t sum_rows_ = 0;
  WorkQueue pack_queue_, walk_queue_, add_queue_;
  Scratch keys_, sums_, scratch_;
};

}  // namespace polylora::cpu
