#include "ops/cpu/lora_delta.h"

#include <algorithm>

#include "base/error.h"

namespace polylora::cpu {
namespace {

constexpr int64_t kRowsPerItem = 64;    // of a group in one item; bounds the shrink's f32 result on the stack
constexpr int64_t kItemsPerThread = 4;  // enough to balance two threads
constexpr int64_t kLeastExpandPanels = 8;  // shorter runs of B panels waste bandwidth

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

void LoraDelta::run(Mat y, ConstMat x, std::span<const LoraGroup> groups) {
  plan(y, x, groups);
  if (groups_.empty()) return;
  shrink_queue_.reset(static_cast<int64_t>(shrinks_.size()));
  expand_queue_.reset(static_cast<int64_t>(expands_.size()));
  pool_.run([&](int member) {
    narrow_rows(x, member);
    pool_.barrier();
    shrink_queue_.drain(member, [&](int64_t i) { shrink(shrinks_[static_cast<size_t>(i)], x.cols); });
    pool_.barrier();
    expand_queue_.drain(member, [&](int64_t i) { expand(expands_[static_cast<size_t>(i)], y); });
  });
}

void LoraDelta::plan(Mat y, ConstMat x, std::span<const LoraGroup> groups) {
  groups_.clear();
  shrinks_.clear();
  expands_.clear();
  size_t x_bytes = 0;
  size_t h_bytes = 0;
  int64_t b_panels = 0;
  for (const LoraGroup& group : groups) {
    if (group.weight == nullptr || group.row_begin == group.row_end) continue;
    const auto* lora = dynamic_cast<const CpuLora*>(group.weight);
    check(lora != nullptr, "the adapter was packed by another backend");
    check(lora->k() == x.cols && lora->n() == y.cols,
          "lora_delta: the adapter's widths are those of x and y");
    groups_.push_back({lora, group.row_begin, group.row_end});
    x_bytes = std::max(x_bytes, narrow_bytes(kernels_, lora->kind(), x.cols));
    h_bytes = std::max(h_bytes, narrow_bytes(kernels_, lora->kind(), lora->a_layout().n));
    for (const CpuLora::Pair& pair : lora->pairs()) b_panels += pair.b_layout.panels();
  }
  x_.resize(x.rows, x_bytes);
  h_.resize(x.rows, h_bytes);
  const int64_t expand_panels =
      std::max(kLeastExpandPanels, ceil_div(b_panels, kItemsPerThread * pool_.size()));
  for (const Rows& group : groups_) plan_group(group, expand_panels);
}

void LoraDelta::plan_group(const Rows& group, int64_t expand_panels) {
  for (int64_t begin = group.begin; begin < group.end; begin += kRowsPerItem) {
    const Rows rows{group.lora, begin, std::min(begin + kRowsPerItem, group.end)};
    for (int64_t p = 0; p < group.lora->a_layout().panels(); ++p) shrinks_.push_back({rows, p});
  }
  for (const CpuLora::Pair& pair : group.lora->pairs()) {
    const int64_t panels = pair.b_layout.panels();
    for (int64_t p = 0; p < panels; p += expand_panels) {
      expands_.push_back({group, &pair, p, std::min(p + expand_panels, panels)});
    }
  }
}

void LoraDelta::narrow_rows(ConstMat x, int member) {
  for (const Rows& group : groups_) {
    for (int64_t r = group.begin; r < group.end; ++r) {
      if (r % pool_.size() == member) x_.narrow(x_.row(r), group.lora->kind(), x.row(r), x.cols, 0);
    }
  }
}

void LoraDelta::shrink(const Shrink& item, int64_t k) {
  const CpuLora& lora = *item.rows.lora;
  const PanelLayout& layout = lora.a_layout();
  const int64_t rows = item.rows.end - item.rows.begin;
  alignas(64) float h[kRowsPerItem][kLanes];
  kernels_.gemm[static_cast<size_t>(layout.kind)]({
      .panels = lora.a() + static_cast<size_t>(item.panel) * layout.panel_bytes(),
      .panel_bytes = layout.panel_bytes(),
      .k = k,
      .x = x_.row(item.rows.begin),
      .x_stride = x_.stride(),
      .rows = rows,
      .y = h[0],
      .y_stride = kLanes,
      .cols = kLanes,
      .bias = nullptr,
      .accumulate = false,
  });
  const float* scale = lora.h_scale() + item.panel * kLanes;
  const size_t column = narrow_bytes(kernels_, layout.kind, item.panel * kLanes);
  for (int64_t r = 0; r < rows; ++r) {
    for (int lane = 0; lane < kLanes; ++lane) h[r][lane] *= scale[lane];
    h_.narrow(h_.row(item.rows.begin + r) + column, layout.kind, h[r], kLanes, 0);
  }
}

void LoraDelta::expand(const Expand& item, Mat y) {
  const CpuLora::Pair& pair = *item.pair;
  const PanelLayout& layout = pair.b_layout;
  const size_t h_bytes = layout.kind == PanelKind::kBf16 ? kernels_.bf16_bytes : sizeof(float);
  const int64_t first = item.panel_begin * kLanes;
  kernels_.gemm[static_cast<size_t>(layout.kind)]({
      .panels = pair.b + static_cast<size_t>(item.panel_begin) * layout.panel_bytes(),
      .panel_bytes = layout.panel_bytes(),
      .k = layout.k,
      .x = h_.row(item.rows.begin) + static_cast<size_t>(pair.h_begin) * h_bytes,
      .x_stride = h_.stride(),
      .rows = item.rows.end - item.rows.begin,
      .y = y.row(item.rows.begin) + pair.n_begin + first,
      .y_stride = y.stride,
      .cols = std::min(item.panel_end * kLanes, layout.n) - first,
      .bias = nullptr,
      .accumulate = true,
  });
}

}  // namespace polylora::cpu
