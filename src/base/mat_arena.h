// Several matrices in one huge-page buffer.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/tensor.h"

namespace polylora {

/// Collects what is wanted, then allocates it all at once: add() … allocate(). Rows start on 64-byte lines.
/// The matrices point into this object's buffer and are zero at first.
class MatArena {
 public:
  void add(Mat& mat, int64_t rows, int64_t cols) {
    mat = Mat(nullptr, rows, cols, (cols + kLine - 1) / kLine * kLine);
    wanted_.push_back(&mat);
  }

  void allocate() {
    int64_t floats = 0;
    for (const Mat* mat : wanted_) floats += mat->rows * mat->stride;
    buffer_ = HugeBuffer(static_cast<size_t>(floats) * sizeof(float));
    auto* next = buffer_.as<float>();
    for (Mat* mat : std::exchange(wanted_, {})) {
      mat->data = next;
      next += mat->rows * mat->stride;
    }
  }

  size_t bytes() const { return buffer_.size(); }

 private:
  static constexpr int64_t kLine = 16;  // floats in a cache line
  std::vector<Mat*> wanted_;
  HugeBuffer buffer_;
};

}  // namespace polylora
