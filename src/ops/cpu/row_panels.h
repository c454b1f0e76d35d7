// Activations as panels whose contraction runs over the rows of the batch: what gradients of weights are sums
// over.
#pragma once

#include "ops/cpu/packed.h"

namespace polylora::cpu {

/// Rows are taken this many at a time, in order; sums over rows are cut there and nowhere else.
inline constexpr int64_t kGradientChunk = 512;

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Rounded to an odd number of cache lines, so that neighbours do not fall into the same cache set.
inline size_t odd_lines(size_t bytes) {
  return ((bytes + 63) / 64 | 1) * 64;
}

/// Where the panels of a matrix x[T,C] lie. Does not own them.
class RowPanels {
 public:
  void resize(PanelKind kind, int64_t rows, int64_t cols) {
    step_ = kind == PanelKind::kBf16 ? 2 : 1;
    cols_ = cols;
    stride_ = odd_lines(static_cast<size_t>(round_up(rows, 2) / step_) * kRowBytes);
  }
  size_t bytes() const { return static_cast<size_t>(round_up(cols_, kLanes) / kLanes) * stride_; }
  void place(std::byte* at) { data_ = at; }

  size_t stride() const { return stride_; }  // from panel to panel
  const std::byte* panel(int64_t p) const { return data_ + static_cast<size_t>(p) * stride_; }
  /// Where pack_rows puts rows t and t+1, t even.
  std::byte* rows_at(int64_t t) const { return data_ + static_cast<size_t>(t / step_) * kRowBytes; }

 private:
  std::byte* data_ = nullptr;
  int64_t cols_ = 0;
  int64_t step_ = 1;
  size_t stride_ = 0;
};

}  // namespace polylora::cpu
