// A view of a row-major 2-D tensor with a row stride. Views do not own; they are passed by value.
#pragma once

#include <cstdint>

namespace polylora {

/// rows × cols elements of T; row r starts at data + r*stride. A column range of a wider matrix is a view too
/// (that is how q, k and v live in one qkv activation).
template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  View() = default;
  View(T* data_, int64_t rows_, int64_t cols_) : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  View(T* data_, int64_t rows_, int64_t cols_, int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  T* row(int64_t r) const { return data + r * stride; }
  View columns(int64_t begin, int64_t count) const { return {data + begin, rows, count, stride}; }
  View row_range(int64_t begin, int64_t count) const { return {data + begin * stride, count, cols, stride}; }

  operator View<const T>() const {
    return {data, rows, cols, stride};
  }  // NOLINT: a mutable view is a const view
};

/// Activations are f32 between ops; each op narrows its own inputs to what its weight format wants.
using Mat = View<float>;
using ConstMat = View<const float>;

}  // namespace polylora
