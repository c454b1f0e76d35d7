#include "ops/cpu/linear.h"

#include <algorithm>

namespace polylora::cpu {
namespace {

/// Fewer multiply-adds than this are done before the other threads would have woken.
constexpr int64_t kInlineProducts = 1 << 16;

constexpr int64_t kItemsPerThread = 8;
constexpr int64_t kPanelStep = 2;  // the widest tile
constexpr int64_t kLeastRows =
    64;  // of a thread; with fewer, reading the weight once for each thread would show
constexpr int64_t kMostRows = 256;          // of an item: their activations stay in a core's cache
constexpr int64_t kLeastAdaptedPanels = 6;  // shorter runs of an adapter's B waste bandwidth

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Linear::Items::Items(int64_t all_panels, int64_t all_rows, int threads, int64_t least_panels)
    : panels(all_panels), rows(all_rows), rows_each(all_rows) {
  int64_t panel_items = kItemsPerThread * threads;
  if (rows >= threads * kLeastRows) {
    const int64_t row_runs = ceil_div(rows, threads * kMostRows) * threads;
    rows_each = ceil_div(rows, row_runs);
    panel_items = kItemsPerThread;
  }
  panels_each = std::max(panels / panel_items / kPanelStep * kPanelStep, least_panels);
  panel_runs = ceil_div(panels, panels_each);
}

int64_t Linear::Items::count() const {
  return panel_runs * ceil_div(rows, rows_each);
}

OutputBlock Linear::Items::block(int64_t item) const {
  const int64_t panel = item % panel_runs * panels_each;
  const int64_t row = item / panel_runs * rows_each;
  return {row, std::min(row + rows_each, rows), panel, std::min(panel + panels_each, panels)};
}

void Linear::run(Mat y, ConstMat x, const CpuWeight& w, std::span<const float> bias,
                 std::span<const LoraGroup> groups) {
  const Product product{y, x, w, bias};
  const PanelKind kind = w.layout().kind;
  x_.resize(x.rows, narrow_bytes(kernels_, kind, x.cols));
  bool adapted = lora_.plan(x, y.cols, groups, &x_, kind);
  const bool apart = adapted && !lora_.blocks_are_disjoint();
  adapted = adapted && !apart;

  const Items items(w.layout().panels(), x.rows, pool_.size(), adapted ? kLeastAdaptedPanels : kPanelStep);
  queue_.reset(items.count());
  if (x.rows * w.rows() * w.cols() < kInlineProducts || items.count() == 1) {
    work(product, items, adapted, 0, 1, [] {});
  } else {
    pool_.run(
        [&](int member) { work(product, items, adapted, member, pool_.size(), [&] { pool_.barrier(); }); });
  }
  if (apart) lora_.run(y, x, groups);
}

template <typename Barrier>
void Linear::work(const Product& product, const Items& items, bool adapted, int member, int members,
                  Barrier barrier) {
  narrow(product, member, members);
  if (adapted) {
    lora_.narrow(product.x, member, members);
    barrier();
    lora_.shrink(member);
  }
  barrier();
  queue_.drain(member, [&](int64_t item) {
    const OutputBlock block = items.block(item);
    if (adapted) lora_.fetch(block);
    multiply(product, block);
    if (adapted) lora_.expand(product.y, block);
  });
}

void Linear::narrow(const Product& product, int member, int members) {
  const CpuWeight& w = product.w;
  const int64_t end = product.x.rows * (member + 1) / members;
  for (int64_t r = product.x.rows * member / members; r < end; ++r) {
    x_.narrow(x_.row(r), w.layout().kind, product.x.row(r), product.x.cols, w.zero_point());
  }
}

void Linear::multiply(const Product& product, const OutputBlock& block) {
  const PanelLayout& layout = product.w.layout();
  const int64_t first = block.panel_begin * kLanes;
  kernels_.gemm[static_cast<size_t>(layout.kind)]({
      .panels = product.w.panels() + static_cast<size_t>(block.panel_begin) * layout.panel_bytes(),
      .panel_bytes = layout.panel_bytes(),
      .k = layout.k,
      .x = x_.row(block.row_begin),
      .x_stride = x_.stride(),
      .rows = block.row_end - block.row_begin,
      .y = product.y.row(block.row_begin) + first,
      .y_stride = product.y.stride,
      .cols = std::min(block.panel_end * kLanes, layout.n) - first,
      .bias = product.bias.empty() ? nullptr : product.bias.data() + first,
      .accumulate = false,
  });
}

}  // namespace polylora::cpu
