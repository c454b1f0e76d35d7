// The ops of training that are loops over rows, columns or elements. Meanings: ops/training_backend.h.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/cpu/kernels.h"
#include "ops/training_backend.h"

namespace polylora::cpu {

/// Work is cut so that no sum depends on the number of threads: a row, a column or a block of fixed size is
/// one thread's.
class TrainingOps {
 public:
  TrainingOps(const Kernels& kernels, ThreadPool& pool)
      : kernels_(kernels), training_(kernels.training), pool_(pool) {}

  void rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps);
  void rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions, RopeTable table);
  void glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation);
  void softcap_backward(Mat dy, ConstMat y, float cap);
  void cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                     std::span<const float> weights);
  void scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift);
  void scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows);
  void dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate);
  void add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys);
  void embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids);
  void column_dots(std::span<float> out, ConstMat a, ConstMat b);
  void adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
             const AdamwParams& params);
  double sum_squares(std::span<const float> x);
  void lora_merge(Mat w, ConstMat a, ConstMat b, float scale);

 private:
  /// body(item) for each of `count` items, on all threads when `elements` in total are worth it.
  template <typename Body>
  void for_each(int64_t count, int64_t elements, Body body);
  /// body(first column, how many) for runs of columns.
  template <typename Body>
  void for_columns(int64_t cols, int64_t elements, Body body);

  const Kernels& kernels_;
  const TrainingKernels& training_;
  ThreadPool& pool_;
  std::vector<float> block_sums_;
};

}  // namespace polylora::cpu
