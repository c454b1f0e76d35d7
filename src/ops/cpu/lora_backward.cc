#include "ops/cpu/lora_backward.h"

#include <algorithm>
#include <cstring>

namespace polylora::cpu {
namespace {

constexpr int64_t kRowsPerItem = 32;  // a multiple of 16: columns are turned 16 rows at a time
constexpr int64_t kPanelsPerItem = 8;

const float* row_or_null(ConstMat m, int64_t r) {
  return r < m.rows ? m.row(r) : nullptr;
}

}  // namespace

void LoraBackward::run(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs, DType dtype) {
  plan(pairs, x.cols, x.rows, dtype);
  const int64_t chunks = (x.rows + kGradientChunk - 1) / kGradientChunk;
  pool_.run([&](int member) {
    pack_factors(member);
    const Local mine = local(member);
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t first = c * kGradientChunk;
      const int64_t rows = std::min(kGradientChunk, x.rows - first);
      const Mat chunk_dx = dx.data != nullptr ? dx.row_range(first, rows) : Mat();
      const ConstMat chunk_dy = dy.row_range(first, rows);
      const ConstMat chunk_x = x.row_range(first, rows);
      if (member == 0) rows_queue_.reset(round_up(rows, kRowsPerItem) / kRowsPerItem);
      pool_.barrier();  // factors are packed, the sums of the chunk before are done
      rows_queue_.drain([&](int64_t item) {
        const int64_t begin = item * kRowsPerItem;
        visit_rows(chunk_dx, chunk_dy, chunk_x, begin, std::min(begin + kRowsPerItem, rows), mine);
      });
      if (member == 0) sums_queue_.reset(static_cast<int64_t>(sums_.size()));
      pool_.barrier();
      sums_queue_.drain([&](int64_t item) { visit_sum(sums_[static_cast<size_t>(item)], rows, mine); });
    }
  });
}

void LoraBackward::plan(std::span<const LoraGradient> pairs, int64_t width, int64_t rows, DType dtype) {
  kind_ = dtype == DType::kBf16 ? PanelKind::kBf16 : PanelKind::kF32;
  dtype_ = dtype == DType::kBf16 ? 1 : 0;
  width_ = width;
  const int64_t chunk = std::min(rows, kGradientChunk);
  pairs_.clear();
  stack_ = widest_pair_ = largest_rank_ = 0;
  for (const LoraGradient& gradient : pairs) {
    Pair& pair = pairs_.emplace_back();
    pair.gradient = &gradient;
    pair.rank = gradient.a.rows;
    pair.stack_begin = stack_;
    pair.b.resize(kind_, gradient.n_count, pair.rank);
    pair.g.resize(kind_, chunk, gradient.n_count);
    stack_ += round_up(pair.rank, 2);
    widest_pair_ = std::max(widest_pair_, gradient.n_count);
    largest_rank_ = std::max(largest_rank_, pair.rank);
  }
  stack_ = round_up(stack_, kLanes);

  const PanelLayout lanes{kind_, stack_, round_up(width, kLanes)};
  a_rows_.resize(kind_, stack_, width);
  size_t factor_bytes = lanes.bytes() + a_rows_.bytes();
  for (const Pair& pair : pairs_) factor_bytes += pair.b.bytes();
  a_lanes_ = factor_scratch_.at_least(factor_bytes);
  a_rows_.place(a_lanes_ + lanes.bytes());
  std::byte* next = a_lanes_ + lanes.bytes() + a_rows_.bytes();
  for (Pair& pair : pairs_) {
    pair.b.place(next);
    next += pair.b.bytes();
  }

  x_.resize(kind_, chunk, width);
  columns_stride_ = narrow_stride(chunk);
  const size_t columns_bytes = static_cast<size_t>(stack_) * columns_stride_;
  size_t chunk_bytes = x_.bytes() + 2 * columns_bytes;
  for (const Pair& pair : pairs_) chunk_bytes += pair.g.bytes();
  next = chunk_scratch_.at_least(chunk_bytes);
  h_columns_ = next;
  dh_columns_ = next + columns_bytes;
  x_.place(next + 2 * columns_bytes);
  next += 2 * columns_bytes + x_.bytes();
  for (Pair& pair : pairs_) {
    pair.g.place(next);
    next += pair.g.bytes();
  }

  const auto floats =
      static_cast<size_t>(2 * kRowsPerItem * stack_ + largest_rank_ * kPanelsPerItem * kLanes);
  local_bytes_ =
      odd_lines(kRowsPerItem * (narrow_stride(width) + narrow_stride(widest_pair_) + narrow_stride(stack_)) +
                floats * sizeof(float));
  locals_ = local_scratch_.at_least(static_cast<size_t>(pool_.size()) * local_bytes_);
  plan_sums(width);
}

void LoraBackward::plan_sums(int64_t width) {
  sums_.clear();
  const auto cut = [&](const Pair* pair, int64_t columns) {
    const int64_t panels = round_up(columns, kLanes) / kLanes;
    for (int64_t p = 0; p < panels; p += kPanelsPerItem)
      sums_.push_back({pair, p, std::min(p + kPanelsPerItem, panels)});
  };
  cut(nullptr, width);
  for (const Pair& pair : pairs_) cut(&pair, pair.gradient->n_count);
}

size_t LoraBackward::narrow_stride(int64_t width) const {
  return odd_lines(narrow_bytes(kernels_, kind_, width));
}

LoraBackward::Local LoraBackward::local(int member) const {
  std::byte* next = locals_ + static_cast<size_t>(member) * local_bytes_;
  const auto take = [&](size_t bytes) {
    std::byte* piece = next;
    next += bytes;
    return piece;
  };
  const auto h_bytes = static_cast<size_t>(kRowsPerItem * stack_) * sizeof(float);
  Local l;
  l.x = take(kRowsPerItem * narrow_stride(width_));
  l.g = take(kRowsPerItem * narrow_stride(widest_pair_));
  l.dh_narrow = take(kRowsPerItem * narrow_stride(stack_));
  l.h = reinterpret_cast<float*>(take(h_bytes));
  l.dh = reinterpret_cast<float*>(take(h_bytes));
  l.db = reinterpret_cast<float*>(next);
  return l;
}

/// Row of the stacked A; null where the stack is padded.
const float* LoraBackward::stacked_a(int64_t row) const {
  for (const Pair& pair : pairs_) {
    const int64_t r = row - pair.stack_begin;
    if (r >= 0 && r < pair.rank) return pair.gradient->a.row(r);
  }
  return nullptr;
}

void LoraBackward::pack_factors(int member) {
  const int step = pool_.size();
  const PanelLayout lanes{kind_, stack_, round_up(width_, kLanes)};
  for (int64_t p = member; p < lanes.panels(); p += step) {
    PackLanesArgs args{
        .rows = {}, .cols = width_, .out = a_lanes_ + static_cast<size_t>(p) * lanes.panel_bytes()};
    for (int64_t i = 0; i < kLanes; ++i) args.rows[i] = stacked_a(p * kLanes + i);
    kernels_.training.pack_lanes[dtype_](args);
  }
  for (int64_t r = 2 * member; r < stack_; r += 2 * step) {
    kernels_.training.pack_rows[dtype_]({.x = {stacked_a(r), stacked_a(r + 1)},
                                         .scale = 1.0f,
                                         .cols = width_,
                                         .narrowed = {},
                                         .panels = a_rows_.rows_at(r),
                                         .panel_stride = a_rows_.stride()});
  }
  for (const Pair& pair : pairs_) {
    const ConstMat b = pair.gradient->b;
    for (int64_t n = 2 * member; n < b.rows; n += 2 * step) {
      kernels_.training.pack_rows[dtype_]({.x = {b.row(n), row_or_null(b, n + 1)},
                                           .scale = 1.0f,
                                           .cols = pair.rank,
                                           .narrowed = {},
                                           .panels = pair.b.rows_at(n),
                                           .panel_stride = pair.b.stride()});
    }
  }
  Local mine = local(member);
  std::memset(mine.dh, 0, static_cast<size_t>(kRowsPerItem * stack_) * sizeof(float));  // padding stays zero
}

void LoraBackward::gemm(const std::byte* panels, size_t panel_bytes, int64_t k, const std::byte* x,
                        size_t x_stride, Mat y, bool accumulate) const {
  kernels_.gemm[static_cast<size_t>(kind_)]({
      .panels = panels,
      .panel_bytes = panel_bytes,
      .k = k,
      .x = x,
      .x_stride = x_stride,
      .rows = y.rows,
      .y = y.data,
      .y_stride = y.stride,
      .cols = y.cols,
      .bias = nullptr,
      .accumulate = accumulate,
  });
}

void LoraBackward::visit_rows(Mat dx, ConstMat dy, ConstMat x, int64_t begin, int64_t end,
                              const Local& local) {
  const int64_t rows = end - begin;
  const size_t x_stride = narrow_stride(width_);
  for (int64_t t = begin; t < end; t += 2) {
    std::byte* narrowed = local.x + static_cast<size_t>(t - begin) * x_stride;
    kernels_.training.pack_rows[dtype_]({.x = {x.row(t), row_or_null(x, t + 1)},
                                         .scale = 1.0f,
                                         .cols = width_,
                                         .narrowed = {narrowed, narrowed + x_stride},
                                         .panels = x_.rows_at(t),
                                         .panel_stride = x_.stride()});
  }
  const PanelLayout lanes{kind_, stack_, round_up(width_, kLanes)};
  gemm(a_lanes_, lanes.panel_bytes(), width_, local.x, x_stride, Mat(local.h, rows, stack_), false);
  for (const Pair& pair : pairs_) visit_pair(pair, dy, begin, end, local);

  const size_t column = narrow_bytes(kernels_, kind_, begin);
  for (int64_t t = 0; t < rows; t += kLanes) {
    const size_t at = column + narrow_bytes(kernels_, kind_, t);
    const int64_t count = std::min<int64_t>(kLanes, rows - t);
    kernels_.training.narrow_columns[dtype_](h_columns_ + at, columns_stride_, local.h + t * stack_, stack_,
                                             count, stack_);
    kernels_.training.narrow_columns[dtype_](dh_columns_ + at, columns_stride_, local.dh + t * stack_, stack_,
                                             count, stack_);
  }
  if (dx.data == nullptr) return;
  const size_t dh_stride = narrow_stride(stack_);
  for (int64_t t = 0; t < rows; ++t) {
    const auto narrow = kind_ == PanelKind::kBf16 ? kernels_.narrow_bf16 : kernels_.narrow_f32;
    narrow(local.dh_narrow + static_cast<size_t>(t) * dh_stride, local.dh + t * stack_, stack_);
  }
  gemm(a_rows_.panel(0), a_rows_.stride(), stack_, local.dh_narrow, dh_stride, dx.row_range(begin, rows),
       true);
}

void LoraBackward::visit_pair(const Pair& pair, ConstMat dy, int64_t begin, int64_t end, const Local& local) {
  const LoraGradient& gradient = *pair.gradient;
  const ConstMat g = dy.columns(gradient.n_begin, gradient.n_count);
  const size_t stride = narrow_stride(gradient.n_count);
  for (int64_t t = begin; t < end; t += 2) {
    std::byte* narrowed = local.g + static_cast<size_t>(t - begin) * stride;
    kernels_.training.pack_rows[dtype_]({.x = {g.row(t), row_or_null(g, t + 1)},
                                         .scale = gradient.scale,
                                         .cols = gradient.n_count,
                                         .narrowed = {narrowed, narrowed + stride},
                                         .panels = pair.g.rows_at(t),
                                         .panel_stride = pair.g.stride()});
  }
  gemm(pair.b.panel(0), pair.b.stride(), gradient.n_count, local.g, stride,
       Mat(local.dh + pair.stack_begin, end - begin, pair.rank, stack_), false);
}

void LoraBackward::visit_sum(const Sum& sum, int64_t rows, const Local& local) {
  const int64_t first = sum.panel_begin * kLanes;
  if (sum.pair == nullptr) {
    const int64_t cols = std::min(sum.panel_end * kLanes, width_) - first;
    for (const Pair& pair : pairs_) {
      gemm(x_.panel(sum.panel_begin), x_.stride(), rows,
           dh_columns_ + static_cast<size_t>(pair.stack_begin) * columns_stride_, columns_stride_,
           pair.gradient->da.columns(first, cols), true);
    }
    return;
  }
  const Pair& pair = *sum.pair;
  const int64_t cols = std::min(sum.panel_end * kLanes, pair.gradient->n_count) - first;
  gemm(pair.g.panel(sum.panel_begin), pair.g.stride(), rows,
       h_columns_ + static_cast<size_t>(pair.stack_begin) * columns_stride_, columns_stride_,
       Mat(local.db, pair.rank, cols), false);
  const Mat db = pair.gradient->db.row_range(first, cols);
  kernels_.training.add_transposed(db.data, db.stride, local.db, cols, cols, pair.rank);
}

}  // namespace polylora::cpu
