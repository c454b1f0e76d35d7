// linear: the product with a packed weight, with the deltas of adapters added while y is at hand.
#pragma once

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/lora_delta.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

class Linear {
 public:
  Linear(const Kernels& kernels, ThreadPool& pool)
      : kernels_(kernels), pool_(pool), x_(kernels), lora_(kernels, pool), queue_(pool.size()) {}

  void run(Mat y, ConstMat x, const CpuWeight& w, std::span<const float> bias,
           std::span<const LoraGroup> groups);

 private:
  struct Product {
    Mat y;
    ConstMat x;
    const CpuWeight& w;
    std::span<const float> bias;
  };
  /// How it is cut into work items. Few rows: runs of panels, so that the weight is read once. Many rows:
  /// runs of rows, so that a thread finds the rows that it wrote itself in its own cache, within them runs of
  /// panels.
  struct Items {
    Items(int64_t panels, int64_t rows, int threads, int64_t least_panels);
    int64_t count() const;
    OutputBlock block(int64_t item) const;
    int64_t panels;
    int64_t rows;
    int64_t panels_each;
    int64_t rows_each;
    int64_t panel_runs;
  };

  /// One member's part; `barrier` waits for the others.
  template <typename Barrier>
  void work(const Product& product, const Items& items, bool adapted, int member, int members,
            Barrier barrier);
  void narrow(const Product& product, int member, int members);
  void multiply(const Product& product, const OutputBlock& block);

  const Kernels& kernels_;
  ThreadPool& pool_;
  NarrowedRows x_;
  LoraDelta lora_;
  StretchQueue queue_;
};

}  // namespace polylora::cpu
