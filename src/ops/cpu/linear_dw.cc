#include "ops/cpu/linear_dw.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

constexpr int64_t kColumnsPerItem = 64;  // of dy

}  // namespace

void LinearDw::run(Mat dw, ConstMat dy, ConstMat x, DType dtype) {
  kind_ = dtype == DType::kBf16 ? PanelKind::kBf16 : PanelKind::kF32;
  dtype_ = dtype == DType::kBf16 ? 1 : 0;
  const int64_t chunk = std::min(x.rows, kGradientChunk);
  x_.resize(kind_, chunk, x.cols);
  x_.place(x_scratch_.at_least(x_.bytes()));
  columns_stride_ = odd_lines(narrow_bytes(kernels_, kind_, chunk));
  const size_t columns_bytes = kColumnsPerItem * columns_stride_;
  std::byte* columns = columns_scratch_.at_least(static_cast<size_t>(pool_.size()) * columns_bytes);
  for (int64_t t = 0; t < x.rows; t += kGradientChunk) {
    const int64_t rows = std::min(kGradientChunk, x.rows - t);
    queue_.reset(round_up(dw.rows, kColumnsPerItem) / kColumnsPerItem);
    pool_.run([&](int member) {
      pack(x.row_range(t, rows), member);
      pool_.barrier();
      queue_.drain([&](int64_t item) {
        multiply(dw, dy.row_range(t, rows), item * kColumnsPerItem,
                 columns + static_cast<size_t>(member) * columns_bytes);
      });
    });
  }
}

void LinearDw::pack(ConstMat x, int member) {
  for (int64_t t = 2 * member; t < x.rows; t += 2 * pool_.size()) {
    kernels_.training.pack_rows[dtype_]({.x = {x.row(t), t + 1 < x.rows ? x.row(t + 1) : nullptr},
                                         .scale = 1.0f,
                                         .cols = x.cols,
                                         .narrowed = {},
                                         .panels = x_.rows_at(t),
                                         .panel_stride = x_.stride()});
  }
}

void LinearDw::multiply(Mat dw, ConstMat dy, int64_t n_begin, std::byte* columns) {
  const int64_t count = std::min(kColumnsPerItem, dw.rows - n_begin);
  for (int64_t t = 0; t < dy.rows; t += kLanes) {
    kernels_.training.narrow_columns[dtype_](columns + narrow_bytes(kernels_, kind_, t), columns_stride_,
                                             dy.row(t) + n_begin, dy.stride,
                                             std::min<int64_t>(kLanes, dy.rows - t), count);
  }
  kernels_.gemm[static_cast<size_t>(kind_)]({
      .panels = x_.panel(0),
      .panel_bytes = x_.stride(),
      .k = dy.rows,
      .x = columns,
      .x_stride = columns_stride_,
      .rows = count,
      .y = dw.row(n_begin),
      .y_stride = dw.stride,
      .cols = dw.cols,
      .bias = nullptr,
      .accumulate = true,
  });
}

}  // namespace polylora::cpu
