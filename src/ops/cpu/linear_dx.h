// linear_dx: the product with the other orientation of a packed weight.
#pragma once

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// No second packed copy of w is kept: a work item turns a few columns of it into panels of wᵀ (a run of N at
/// a time, so that they stay in L2) and multiplies all rows of dy with them. Below some hundred rows the
/// turning costs more than the product.
///
/// A sum is cut at multiples of kRun of N, always, so that it does not depend on T or on threads.
class LinearDx {
 public:
  LinearDx(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool), dy_(kernels) {}

  void run(Mat dx, ConstMat dy, const CpuWeight& w, bool accumulate);

 private:
  /// A part of the product: all of dx's columns, some of dy's.
  struct Part {
    Mat dx;
    ConstMat dy;
    const CpuWeight* w;
    int64_t n_begin;
    int64_t n_end;
    bool accumulate;
  };
  /// How it is cut into work items: runs of column panels of dx, and runs of rows where those would not feed
  /// the threads.
  struct Items {
    Items(int64_t panels, int64_t rows, int threads);
    int64_t count() const { return panel_runs * row_runs; }
    int64_t panel_runs;
    int64_t row_runs;
    int64_t rows_each;
  };

  void narrow_rows(const Part& part, int member);
  void multiply(const Part& part, const Items& items, int64_t item, int member);

  const Kernels& kernels_;
  ThreadPool& pool_;
  NarrowedRows dy_;  // the part's rows
  Scratch panels_;   // per thread: kPanels streams
  std::byte* streams_ = nullptr;
  size_t stream_bytes_ = 0;
  WorkQueue queue_;
};

}  // namespace polylora::cpu
