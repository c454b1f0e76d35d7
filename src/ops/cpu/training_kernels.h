// The part of the kernel table (kernels.h) that only training uses. The same rules: plain data, no threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polylora::cpu {

/// Turns columns of a packed w[N,K] into panels of wᵀ[K,N]: what dx = dy·w is multiplied with. Panels of 16
/// columns each get one stream of 64-byte rows that hold, for all 16 columns, the next 4 bytes of N. q8 and
/// q4 become bf16.
struct TransposeArgs {
  const std::byte* panels;  // of w, from the first of the rows to take
  size_t panel_bytes;
  int64_t k;         // of w
  int zero_point;    // of w, q8 and q4 without minima
  int64_t k_begin;   // the first column, a multiple of 16
  int64_t k_panels;  // how many times 16 columns; columns past k become zero
  int64_t n_panels;  // how many times 16 rows
  std::byte* out;    // the first column panel; the next follow out_stride apart
  size_t out_stride;
};

/// Two adjacent rows of a matrix x[T,C] as the next 4 (bf16) or 8 (f32) bytes of panels whose contraction
/// runs over T, each value times `scale`; and the same rows narrowed as gemm wants its activations.
struct PackRowsArgs {
  const float* x[2];  // null = zeros
  float scale;
  int64_t cols;
  std::byte* narrowed[2];  // null = not wanted
  std::byte* panels;       // these two rows in the first panel; null = not wanted
  size_t panel_stride;
};

/// Up to 16 rows of `cols` floats as one panel: what packed.h does for weights, here for masters that change
/// at every step. `out` has room for `cols` rounded up to 16.
struct PackLanesArgs {
  const float* rows[16];  // null = zeros
  int64_t cols;
  std::byte* out;
};

/// AdamW with everything that does not depend on the element worked out.
struct AdamwFactors {
  float gradient_scale;
  float keep;  // 1 - learning rate * weight decay
  float beta1, rest1;
  float beta2, rest2;
  float inverse_root;  // 1 / sqrt(1 - beta2^step)
  float step_size;
  float epsilon;
};

struct TrainingKernels {
  void (*transpose[6])(const TransposeArgs& args);  // by PanelKind of w
  // [0] f32, [1] bf16: the PanelKind of what they write.
  void (*pack_rows[2])(const PackRowsArgs& args);
  void (*pack_lanes[2])(const PackLanesArgs& args);
  /// x[rows,cols] -> column c narrowed at out + c * out_stride; rows <= 16, padded with zeros to 16.
  void (*narrow_columns[2])(std::byte* out, size_t out_stride, const float* x, int64_t x_stride, int64_t rows,
                            int64_t cols);
  /// y[rows,cols] += xᵀ
  void (*add_transposed)(float* y, int64_t y_stride, const float* x, int64_t x_stride, int64_t rows,
                         int64_t cols);

  void (*rmsnorm_backward)(float* dx, const float* dy, const float* x, const float* gain, int64_t n,
                           float eps);
  void (*rope_backward)(float* head, const float* cosine, const float* sine, int64_t half);
  // dgate and dup may be gate and up.
  void (*silu_backward)(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                        int64_t n);
  void (*gelu_tanh_backward)(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                             int64_t n);
  void (*softcap_backward)(float* dy, const float* y, int64_t n, float cap);  // dy *= 1 - (y / cap)²
  /// x = weight * softmax(x); *largest and *total are the row's maximum and Σ exp(x - maximum).
  void (*softmax)(float* x, int64_t n, float weight, float* largest, float* total);
  void (*scale_by)(float* y, const float* gain, int64_t n);  // y *= gain
  /// out[cols] += Σ over rows of a∘b
  void (*column_dots)(float* out, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                      int64_t rows, int64_t cols);
  void (*adamw)(float* p, float* m, float* v, const float* g, int64_t n, const AdamwFactors& factors);
  float (*sum_squares)(const float* x, int64_t n);
  /// One row: w[k] += (Σ over r of b[r] * a[r,k]) * scale, the sum one chain of fused multiply-adds.
  void (*lora_merge)(float* w, const float* a, int64_t a_stride, const float* b, int64_t rank, int64_t k,
                     float scale);
};

}  // namespace polylora::cpu
