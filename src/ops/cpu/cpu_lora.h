// Adapters in the panel layouts that kernels.h describes.
#pragma once

#include <span>
#include <vector>

#include "ops/cpu/packed.h"

namespace polylora::cpu {

/// The A matrices of all pairs are stacked into one, so that one product gives every pair's h. A pair's share
/// of the stack begins at an even row in bf16, since activations are read in twos, and at a whole panel in
/// i8, whose h have a scale of their own by panel.
class CpuLora final : public LoraWeight {
 public:
  struct Pair {
    int64_t n_begin;
    int64_t h_begin;  // first row of its A in the stack
    PanelLayout b_layout;
    const std::byte* b;

    int64_t h_panels() const { return (b_layout.k + kLanes - 1) / kLanes; }
  };

  CpuLora(const LoraSource& source, DType dtype);

  int64_t total_rank() const override { return total_rank_; }
  size_t bytes() const override { return buffer_.size(); }

  int64_t k() const { return a_layout_.k; }
  int64_t n() const { return n_; }
  PanelKind kind() const { return a_layout_.kind; }
  const PanelLayout& a_layout() const { return a_layout_; }
  const std::byte* a() const { return buffer_.data(); }
  /// By row of the stack, padded to whole panels; 0 where a row is padding.
  const float* h_scale() const { return h_scale_.data(); }
  std::span<const Pair> pairs() const { return pairs_; }

 private:
  int64_t n_;
  int64_t total_rank_ = 0;
  PanelLayout a_layout_;
  std::vector<float> h_scale_;
  std::vector<Pair> pairs_;
  HugeBuffer buffer_;
};

}  // namespace polylora::cpu
