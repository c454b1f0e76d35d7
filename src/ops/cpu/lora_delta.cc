#include "ops/cpu/lora_delta.h"

#include <algorithm>
#include <cstring>

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
  if (!plan(x, y.cols, groups)) return;
  const int64_t panels = ceil_div(y.cols, kLanes);
  const int64_t panels_each = std::max(kLeastExpandPanels, ceil_div(panels, kItemsPerThread * pool_.size()));
  expand_queue_.reset(ceil_div(panels, panels_each));
  pool_.run([&](int member) {
    narrow(x, member, pool_.size());
    pool_.barrier();
    shrink(member);
    pool_.barrier();
    expand_queue_.drain(member, [&](int64_t i) {
      expand(y, {0, y.rows, i * panels_each, std::min((i + 1) * panels_each, panels)});
    });
  });
}

bool LoraDelta::plan(ConstMat x, int64_t n, std::span<const LoraGroup> groups, const NarrowedRows* narrowed,
                     PanelKind narrowed_kind) {
  groups_.clear();
  shrinks_.clear();
  narrowed_ = narrowed;
  narrowed_kind_ = narrowed_kind;
  k_ = x.cols;
  aligned_ = true;
  size_t x_bytes = 0;
  size_t h_bytes = 0;
  int64_t h_rows = 0;
  for (const LoraGroup& group : groups) {
    if (group.weight == nullptr || group.row_begin == group.row_end) continue;
    const auto* lora = dynamic_cast<const CpuLora*>(group.weight);
    check(lora != nullptr, "the adapter was packed by another backend");
    check(lora->k() == x.cols && lora->n() == n, "lora_delta: the adapter's widths are those of x and y");
    const bool same_rows = !groups_.empty() && groups_.back().begin == group.row_begin;
    check(!same_rows || groups_.back().lora->kind() == lora->kind(),
          "adapters of the same rows have the same dtype");
    groups_.push_back({lora, group.factor, group.row_begin, group.row_end, h_rows});
    h_rows += group.row_end - group.row_begin;
    x_bytes = std::max(x_bytes, narrow_bytes(kernels_, lora->kind(), x.cols));
    h_bytes = std::max(h_bytes, narrow_bytes(kernels_, lora->kind(), lora->a_layout().n));
    for (const CpuLora::Pair& pair : lora->pairs()) aligned_ = aligned_ && pair.n_begin % kLanes == 0;
    plan_shrink(groups_.back());
  }
  if (groups_.empty()) return false;
  x_.resize(x.rows, x_bytes);
  h_.resize(h_rows, h_bytes);
  shrink_queue_.reset(static_cast<int64_t>(shrinks_.size()));
  return true;
}

void LoraDelta::plan_shrink(const Rows& group) {
  for (int64_t begin = group.begin; begin < group.end; begin += kRowsPerItem) {
    const Rows rows = group.part(begin, std::min(begin + kRowsPerItem, group.end));
    for (int64_t p = 0; p < group.lora->a_layout().panels(); ++p) shrinks_.push_back({rows, p});
  }
}

void LoraDelta::narrow(ConstMat x, int member, int members) {
  for (const Rows& group : groups_) {
    if (narrowed_ != nullptr && group.lora->kind() == narrowed_kind_) continue;
    for (int64_t r = group.begin; r < group.end; ++r) {
      if (r % members == member) x_.narrow(x_.row(r), group.lora->kind(), x.row(r), x.cols, 0);
    }
  }
}

void LoraDelta::shrink(int member) {
  shrink_queue_.drain(member, [&](int64_t i) { shrink_item(shrinks_[static_cast<size_t>(i)]); });
}

void LoraDelta::shrink_item(const Shrink& item) {
  const CpuLora& lora = *item.rows.lora;
  const PanelLayout& layout = lora.a_layout();
  const NarrowedRows& x = narrowed_ != nullptr && lora.kind() == narrowed_kind_ ? *narrowed_ : x_;
  const int64_t rows = item.rows.end - item.rows.begin;
  alignas(64) float h[kRowsPerItem][kLanes];
  kernels_.gemm[static_cast<size_t>(layout.kind)]({
      .panels = lora.a() + static_cast<size_t>(item.panel) * layout.panel_bytes(),
      .panel_bytes = layout.panel_bytes(),
      .k = k_,
      .x = x.row(item.rows.begin),
      .x_stride = x.stride(),
      .rows = rows,
      .y = h[0],
      .y_stride = kLanes,
      .cols = kLanes,
      .bias = nullptr,
      .accumulate = false,
  });
  const float* scale = lora.h_scale() + item.panel * kLanes;
  for (int64_t r = 0; r < rows; ++r) {
    for (int lane = 0; lane < kLanes; ++lane) h[r][lane] *= item.rows.factor * scale[lane];
    narrow_hidden(h_.row(item.rows.h_begin + r), lora, item.panel, h[r]);
  }
}

/// h of one panel of the stack. Floats of all pairs lie in a row; an i8 pair's values are followed by their
/// scales.
void LoraDelta::narrow_hidden(std::byte* row, const CpuLora& lora, int64_t panel, const float* h) {
  if (lora.kind() != PanelKind::kI8) {
    h_.narrow(row + narrow_bytes(kernels_, lora.kind(), panel * kLanes), lora.kind(), h, kLanes, 0);
    return;
  }
  static_assert(kI8Group == kLanes);
  const auto pair = std::ranges::find_if(lora.pairs(), [&](const CpuLora::Pair& p) {
    return panel * kLanes < p.h_begin + p.h_panels() * kLanes;
  });
  const int64_t within = panel - pair->h_begin / kLanes;
  std::byte narrowed[kLanes + 2 * sizeof(float)];
  kernels_.narrow_i8(narrowed, h, kLanes);
  std::byte* values = row + hidden_offset(*pair);
  std::memcpy(values + within * kLanes, narrowed, kLanes);
  std::memcpy(values + pair->h_panels() * kLanes + within * 8, narrowed + kLanes, 8);
}

size_t LoraDelta::hidden_offset(const CpuLora::Pair& pair) const {
  const PanelKind kind = pair.b_layout.kind;
  if (kind == PanelKind::kI8) return narrow_bytes(kernels_, kind, pair.h_begin);
  return static_cast<size_t>(pair.h_begin) * (kind == PanelKind::kBf16 ? kernels_.bf16_bytes : sizeof(float));
}

/// A panel of B belongs to the block that holds its first column.
template <typename Body>
void LoraDelta::for_each_part(const OutputBlock& block, Body body) const {
  for (const Rows& group : groups_) {
    const int64_t begin = std::max(group.begin, block.row_begin), end = std::min(group.end, block.row_end);
    if (begin >= end) continue;
    const Rows rows = group.part(begin, end);
    for (const CpuLora::Pair& pair : group.lora->pairs()) {
      const auto first_at_or_after = [&](int64_t panel) {
        return std::clamp<int64_t>(ceil_div(panel * kLanes - pair.n_begin, kLanes), 0,
                                   pair.b_layout.panels());
      };
      const PanelRange panels{first_at_or_after(block.panel_begin), first_at_or_after(block.panel_end)};
      if (panels.begin < panels.end) body(rows, pair, panels);
    }
  }
}

void LoraDelta::fetch(const OutputBlock& block) const {
  for_each_part(block, [](const Rows&, const CpuLora::Pair& pair, const PanelRange& panels) {
    const size_t panel_bytes = pair.b_layout.panel_bytes();
    const auto end = static_cast<size_t>(panels.end) * panel_bytes;
    for (size_t at = static_cast<size_t>(panels.begin) * panel_bytes; at < end; at += kRowBytes)
      __builtin_prefetch(pair.b + at, 0, 2);  // into L2
  });
}

void LoraDelta::expand(Mat y, const OutputBlock& block) {
  for_each_part(block, [&](const Rows& rows, const CpuLora::Pair& pair, const PanelRange& panels) {
    expand_pair(y, rows, pair, panels);
  });
}

void LoraDelta::expand_pair(Mat y, const Rows& rows, const CpuLora::Pair& pair, const PanelRange& panels) {
  const PanelLayout& layout = pair.b_layout;
  const int64_t first = panels.begin * kLanes;
  kernels_.gemm[static_cast<size_t>(layout.kind)]({
      .panels = pair.b + static_cast<size_t>(panels.begin) * layout.panel_bytes(),
      .panel_bytes = layout.panel_bytes(),
      .k = layout.k,
      .x = h_.row(rows.h_begin) + hidden_offset(pair),
      .x_stride = h_.stride(),
      .rows = rows.end - rows.begin,
      .y = y.row(rows.begin) + pair.n_begin + first,
      .y_stride = y.stride,
      .cols = std::min(panels.end * kLanes, layout.n) - first,
      .bias = nullptr,
      .accumulate = true,
  });
}

}  // namespace polylora::cpu
