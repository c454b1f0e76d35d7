// lora_delta for a batch that mixes adapters.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Two sweeps over all groups at once: shrink (h = x·Aᵀ, one item per 16 stacked ranks) and expand (y +=
/// h·Bᵀ, one item per run of B panels). Each adapter's bytes are read once per call, unless a group has many
/// rows. The cost of a decode batch is those bytes, so items are cut for even streams, not for arithmetic.
class LoraDelta {
 public:
  LoraDelta(const Kernels& kernels, ThreadPool& pool)
      : kernels_(kernels),
        pool_(pool),
        x_(kernels),
        h_(kernels),
        shrink_queue_(pool.size()),
        expand_queue_(pool.size()) {}

  void run(Mat y, ConstMat x, std::span<const LoraGroup> groups);

 private:
  struct Rows {  // rows of the batch that use one adapter
    const CpuLora* lora;
    int64_t begin;
    int64_t end;
  };
  struct Shrink {
    Rows rows;
    int64_t panel;
  };
  struct Expand {
    Rows rows;
    const CpuLora::Pair* pair;
    int64_t panel_begin;
    int64_t panel_end;
  };

  void plan(Mat y, ConstMat x, std::span<const LoraGroup> groups);
  void plan_group(const Rows& group, int64_t expand_panels);
  void narrow_rows(ConstMat x, int member);
  void shrink(const Shrink& item, int64_t k);
  void expand(const Expand& item, Mat y);

  const Kernels& kernels_;
  ThreadPool& pool_;
  NarrowedRows x_;
  NarrowedRows h_;
  std::vector<Rows> groups_;
  std::vector<Shrink> shrinks_;
  std::vector<Expand> expands_;
  StretchQueue shrink_queue_;
  StretchQueue expand_queue_;
};

}  // namespace polylora::cpu
