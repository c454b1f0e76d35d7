#include "ops/cpu/linear_dx.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

constexpr int64_t kPanels = 2;       // columns of dx in an item, in panels: the widest tile
constexpr int64_t kRun = 2048;       // of N in a stream of transposed panels: 64 KiB each in bf16
constexpr int64_t kPart = 4 * kRun;  // of N in one narrowed copy of dy
constexpr int64_t kRows = 1024;      // of dy in it: together 16 MiB in bf16, which L3 holds
constexpr int64_t kLeastRows = 128;  // an item with fewer would spend its time on turning panels

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

PanelKind multiplied_kind(const CpuWeight& w) {
  return w.layout().kind == PanelKind::kF32 ? PanelKind::kF32 : PanelKind::kBf16;
}

}  // namespace

LinearDx::Items::Items(int64_t panels, int64_t rows, int threads) : panel_runs(ceil_div(panels, kPanels)) {
  constexpr int64_t kItemsPerThread = 4;
  row_runs = std::clamp<int64_t>(kItemsPerThread * threads / panel_runs, 1, ceil_div(rows, kLeastRows));
  rows_each = ceil_div(rows, row_runs);
  row_runs = ceil_div(rows, rows_each);
}

void LinearDx::run(Mat dx, ConstMat dy, const CpuWeight& w, bool accumulate) {
  const PanelKind kind = multiplied_kind(w);
  const Items items(ceil_div(w.cols(), kLanes), std::min(dy.rows, kRows), pool_.size());
  const PanelLayout stream{kind, kLanes, std::min(kRun, ceil_div(w.rows(), kLanes) * kLanes)};
  stream_bytes_ =
      stream.panel_bytes() + kRowBytes;  // an odd number of lines: streams in different cache sets
  streams_ = panels_.at_least(static_cast<size_t>(pool_.size() * kPanels) * stream_bytes_);
  dy_.resize(std::min(dy.rows, kRows), narrow_bytes(kernels_, kind, std::min(kPart, w.rows())));
  for (int64_t t = 0; t < dy.rows; t += kRows) {
    const int64_t rows = std::min(kRows, dy.rows - t);
    pool_.run([&](int member) {
      for (int64_t n = 0; n < w.rows(); n += kPart) {
        const Part part{dx.row_range(t, rows),         dy.row_range(t, rows), &w, n,
                        std::min(n + kPart, w.rows()), accumulate || n > 0};
        if (member == 0) queue_.reset(items.count());
        narrow_rows(part, member);
        pool_.barrier();
        queue_.drain([&](int64_t item) { multiply(part, items, item, member); });
        if (part.n_end < w.rows()) pool_.barrier();  // the narrowed rows are about to be replaced
      }
    });
  }
}

void LinearDx::narrow_rows(const Part& part, int member) {
  for (int64_t r = member; r < part.dy.rows; r += pool_.size()) {
    dy_.narrow(dy_.row(r), multiplied_kind(*part.w), part.dy.row(r) + part.n_begin, part.n_end - part.n_begin,
               0);
  }
}

void LinearDx::multiply(const Part& part, const Items& items, int64_t item, int member) {
  const PanelLayout& layout = part.w->layout();
  const PanelKind kind = multiplied_kind(*part.w);
  const int64_t row = item % items.row_runs * items.rows_each;
  const int64_t k_begin = item / items.row_runs * kPanels * kLanes;
  const int64_t columns = std::min(kPanels * kLanes, layout.k - k_begin);
  const int64_t rows = std::min(items.rows_each, part.dy.rows - row);
  if (rows <= 0) return;  // a shorter last part has no row for this item
  std::byte* streams = streams_ + static_cast<size_t>(member * kPanels) * stream_bytes_;
  for (int64_t n = part.n_begin; n < part.n_end; n += kRun) {
    const int64_t count = std::min(kRun, part.n_end - n);
    kernels_.training.transpose[static_cast<size_t>(layout.kind)]({
        .panels = part.w->panels() + static_cast<size_t>(n / kLanes) * layout.panel_bytes(),
        .panel_bytes = layout.panel_bytes(),
        .k = layout.k,
        .zero_point = part.w->zero_point(),
        .k_begin = k_begin,
        .k_panels = ceil_div(columns, kLanes),
        .n_panels = ceil_div(count, kLanes),
        .out = streams,
        .out_stride = stream_bytes_,
    });
    kernels_.gemm[static_cast<size_t>(kind)]({
        .panels = streams,
        .panel_bytes = stream_bytes_,
        .k = count,
        .x = dy_.row(row) + narrow_bytes(kernels_, kind, n - part.n_begin),
        .x_stride = dy_.stride(),
        .rows = rows,
        .y = part.dx.row(row) + k_begin,
        .y_stride = part.dx.stride,
        .cols = columns,
        .bias = nullptr,
        .accumulate = part.accumulate || n > part.n_begin,
    });
  }
}

}  // namespace polylora::cpu
