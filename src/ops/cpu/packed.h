// Weights in the layouts that kernels.h describes.
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
  if (kind == PanelKind::kI8) return padded + padded / kI8Group * 2 * sizeof(float);
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

  void read_row(int64_t row, float* out) const override;

 private:
  void read_quantised_row(const std::byte* panel, int64_t lane, float* out) const;

  WeightFormat format_;
  QuantScheme scheme_;
  PanelLayout layout_;
  HugeBuffer buffer_;
};

/// Packs all of a matrix on the calling thread. Rows of kF32 and kBf16 panels may have any float dtype; those
/// of kI8 are kU8, round_up(k, 4) bytes each, as they go into the panel.
void pack_panels(const PanelLayout& layout, std::span<const WeightSource::Row> rows, std::byte* out);

}  // namespace polylora::cpu
