// linear_dw: the gradient of a matrix that is trained in full.
#pragma once

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/row_panels.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Per chunk of rows: x becomes panels once, then each item turns some columns of dy into rows and multiplies
/// them with all of x's.
class LinearDw {
 public:
  LinearDw(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  void run(Mat dw, ConstMat dy, ConstMat x, DType dtype);

 private:
  void pack(ConstMat x, int member);
  void multiply(Mat dw, ConstMat dy, int64_t n_begin, std::byte* columns);

  const Kernels& kernels_;
  ThreadPool& pool_;
  PanelKind kind_ = PanelKind::kF32;
  size_t dtype_ = 0;
  RowPanels x_;
  Scratch x_scratch_, columns_scratch_;
  size_t columns_stride_ = 0;
  WorkQueue queue_;
};

}  // namespace polylora::cpu
