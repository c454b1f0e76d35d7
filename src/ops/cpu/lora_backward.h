// lora_backward: gradients of f32 masters, whose panels are made on the fly.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/cpu/row_panels.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"
#include "ops/training_backend.h"

namespace polylora::cpu {

/// The pairs of one linear share x: it is narrowed and packed once, and their ranks are stacked, so that x·Aᵀ
/// and dh·A are one product each. Three sweeps per call or chunk:
///   pack    A (both ways round) and B of all pairs
///   rows    32 rows per item: g = scale*dy, h = x·Aᵀ, dh = g·B, dx += dh·A, and all that the next sweep
///   wants sums    a run of columns per item: da += dhᵀ·x, db += (hᵀ·g)ᵀ
class LoraBackward {
 public:
  LoraBackward(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  void run(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs, DType dtype);

 private:
  struct Pair {
    const LoraGradient* gradient;
    int64_t rank;
    int64_t stack_begin;  // of its ranks in the stack, even: bf16 is read in twos
    RowPanels b;          // [rank, n_count]: contraction over n
    RowPanels g;          // [n_count, chunk]
  };
  struct Sum {  // an item of the last sweep; a null pair is a run of x
    const Pair* pair;
    int64_t panel_begin;
    int64_t panel_end;
  };
  /// Pieces of one thread.
  struct Local {
    std::byte* x;  // 32 narrowed rows
    std::byte* g;  // 32 narrowed rows of one pair
    float* h;      // [32, stack]
    float* dh;     // [32, stack]
    std::byte* dh_narrow;
    float* db;  // [rank, run of columns]
  };

  void plan(std::span<const LoraGradient> pairs, int64_t width, int64_t rows, DType dtype);
  void plan_sums(int64_t width);
  void pack_factors(int member);
  void visit_rows(Mat dx, ConstMat dy, ConstMat x, int64_t begin, int64_t end, const Local& local);
  void visit_pair(const Pair& pair, ConstMat dy, int64_t begin, int64_t end, const Local& local);
  void visit_sum(const Sum& sum, int64_t rows, const Local& local);
  void gemm(const std::byte* panels, size_t panel_bytes, int64_t k, const std::byte* x, size_t x_stride,
            Mat y, bool accumulate) const;
  const float* stacked_a(int64_t row) const;
  Local local(int member) const;
  size_t narrow_stride(int64_t width) const;

  const Kernels& kernels_;
  ThreadPool& pool_;
  size_t dtype_ = 0;  // index of the dtype's kernels
  PanelKind kind_ = PanelKind::kF32;
  int64_t width_ = 0;
  int64_t stack_ = 0;  // ranks with their padding, a multiple of 16
  int64_t widest_pair_ = 0;
  int64_t largest_rank_ = 0;
  std::vector<Pair> pairs_;
  std::vector<Sum> sums_;
  Scratch factor_scratch_, chunk_scratch_, local_scratch_;
  std::byte* a_lanes_ = nullptr;    // panels of the stack: contraction over K
  RowPanels a_rows_;                // panels of its transpose: contraction over the ranks
  RowPanels x_;                     // [K, chunk]
  std::byte* h_columns_ = nullptr;  // hᵀ, dhᵀ narrowed: [stack, chunk]
  std::byte* dh_columns_ = nullptr;
  size_t columns_stride_ = 0;
  std::byte* locals_ = nullptr;
  size_t local_bytes_ = 0;
  WorkQueue rows_queue_, sums_queue_;
};

}  // namespace polylora::cpu
