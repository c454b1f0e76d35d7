// Working memory that the backend keeps between calls, so that no op allocates once shapes have been seen.
#pragma once

#include "base/arena.h"
#include "ops/cpu/packed.h"

namespace polylora::cpu {

/// Aligned bytes that only ever grow; the content does not survive growth.
class Scratch {
 public:
  std::byte* at_least(size_t bytes) {
    if (buffer_.size() < bytes) buffer_ = HugeBuffer(bytes + bytes / 2);
    return buffer_.data();
  }
  std::byte* data() const { return buffer_.data(); }

 private:
  HugeBuffer buffer_;
};

/// Activation rows in the form that one kind of panel is multiplied with.
class NarrowedRows {
 public:
  explicit NarrowedRows(const Kernels& kernels) : kernels_(kernels) {}

  /// Room for `rows` rows of up to `row_bytes`, as narrow_bytes() counts them.
  void resize(int64_t rows, size_t row_bytes) {
    // An odd number of cache lines, so that the rows of a tile do not fall into the same cache set.
    stride_ = ((row_bytes + 63) / 64 | 1) * 64;
    data_ = scratch_.at_least(static_cast<size_t>(rows) * stride_);
  }

  std::byte* row(int64_t r) const { return data_ + static_cast<size_t>(r) * stride_; }
  size_t stride() const { return stride_; }

  void narrow(std::byte* out, PanelKind kind, const float* x, int64_t k, int zero_point) const {
    switch (kind) {
      case PanelKind::kF32:
        return kernels_.narrow_f32(out, x, k);
      case PanelKind::kBf16:
        return kernels_.narrow_bf16(out, x, k);
      case PanelKind::kQ8:
      case PanelKind::kQ4:
        return kernels_.narrow_int8(out, x, k, zero_point);
      case PanelKind::kI8:
        return kernels_.narrow_i8(out, x, k);
      case PanelKind::kQ8Min:
      case PanelKind::kQ4Min:
        return kernels_.narrow_int8_min(out, x, k, zero_point);
    }
  }

 private:
  const Kernels& kernels_;
  Scratch scratch_;
  std::byte* data_ = nullptr;
  size_t stride_ = 0;
};

}  // namespace polylora::cpu
