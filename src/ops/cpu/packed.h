// Weights and adapters in the layouts that kernels.h describes.
#pragma once

#include <span>
#include <vector>

#include "base/arena.h"
#include "ops/cpu/kernels.h"
#include "ops/quant.h"
#include "ops/weight.h"

namespace polylora::cpu {

/// Sizes of a packed matrix w[n, k].
struct PanelLayout {
  PanelKind kind = PanelKind::kF32;
  int64_t n = 0;
  int64_t k = 0;

  int64_t panels() const { return (n + kLanes - 1) / kLanes; }
  int64_t steps() const;            // 64-byte rows in a panel, without the headers
  int64_t steps_per_group() const;  // q8, q4: of those, rows in a group of 32
  int64_t groups_per_header() const;
  size_t panel_bytes() const;
  size_t bytes() const { return static_cast<size_t>(panels()) * panel_bytes(); }

  /// q8, q4: where in a panel the data and the scales of group g begin.
  size_t group_offset(int64_t g) const;
  size_t scale_offset(int64_t g) const;
};

inline size_t narrow_bytes(const Kernels& kernels, PanelKind kind, int64_t k) {
  const auto padded = static_cast<size_t>((k + kLanes - 1) / kLanes * kLanes);
  if (kind == PanelKind::kF32) return padded * sizeof(float);
  if (kind == PanelKind::kBf16) return padded * kernels.bf16_bytes;
  return padded + padded / kGroup * 2 * sizeof(float);  // int8, then per group a scale and an offset
}

class CpuWeight final : public Weight {
 public:
  /// Packs on `threads` threads of its own.
  CpuWeight(const WeightSource& source, WeightFormat format, int threads);

  WeightFormat format() const override { return format_; }
  int64_t rows() const override { return layout_.n; }
  int64_t cols() const override { return layout_.k; }
  size_t bytes() const override { return buffer_.size(); }

  const PanelLayout& layout() const { return layout_; }
  const std::byte* panels() const { return buffer_.data(); }
  int zero_point() const { return scheme_.zero_point; }

  /// Row `row` as floats.
  void read_row(int64_t row, float* out) const;

 private:
  void read_quantised_row(const std::byte* panel, int64_t lane, float* out) const;

  WeightFormat format_;
  QuantScheme scheme_;
  PanelLayout layout_;
  HugeBuffer buffer_;
};

/// The A matrices of all pairs are stacked into one, so that one product gives every pair's h. In bf16 each
/// pair starts at an even row of the stack: activations are read in twos.
class CpuLora final : public LoraWeight {
 public:
  struct Pair {
    int64_t n_begin;
    int64_t h_begin;  // first row of its A in the stack
    PanelLayout b_layout;
    const std::byte* b;
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
