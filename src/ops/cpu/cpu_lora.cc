#include "ops/cpu/cpu_lora.h"

#include <deque>

namespace polylora::cpu {
namespace {

using Rows = std::vector<WeightSource::Row>;

PanelKind panel_kind(DType dtype) {
  if (dtype == DType::kI8) return PanelKind::kI8;
  return dtype == DType::kBf16 ? PanelKind::kBf16 : PanelKind::kF32;
}

/// Where a pair's rows may begin in the stack.
int64_t stack_step(PanelKind kind) {
  return kind == PanelKind::kI8 ? kLanes : 2;
}

/// Rows of a dense row-major matrix.
void append_rows(Rows& rows, const void* data, DType dtype, int64_t count, int64_t width) {
  const auto* bytes = static_cast<const std::byte*>(data);
  for (int64_t r = 0; r < count; ++r, bytes += dtype_row_bytes(dtype, width)) rows.push_back({bytes, dtype});
}

/// int8 values as a panel holds them: unsigned, in whole fours.
class UnsignedRows {
 public:
  UnsignedRows(const std::vector<int8_t>& values, int64_t rows, int64_t cols)
      : rows_(rows), width_((cols + 3) / 4 * 4) {
    bytes_.assign(static_cast<size_t>(rows * width_), kI8ZeroPoint);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        bytes_[static_cast<size_t>(r * width_ + c)] =
            static_cast<uint8_t>(values[static_cast<size_t>(r * cols + c)] + kI8ZeroPoint);
      }
    }
  }
  void append_to(Rows& rows) const { append_rows(rows, bytes_.data(), DType::kU8, rows_, width_); }

 private:
  int64_t rows_;
  int64_t width_;
  std::vector<uint8_t> bytes_;
};

/// A pair in the dtype that it will be held in.
class PairRows {
 public:
  PairRows(const LoraPairSource& pair, int64_t k, PanelKind kind)
      : scale(static_cast<size_t>(pair.rank), pair.scale) {
    if (kind != PanelKind::kI8) {
      append_rows(a, pair.a, pair.dtype, pair.rank, k);
      append_rows(b, pair.b, pair.dtype, pair.n_count, pair.rank);
      return;
    }
    const Int8LoraPair quantised = quantize_lora_pair(pair, k);
    scale = quantised.h_scale;
    matrices_.emplace_back(quantised.a, pair.rank, k).append_to(a);
    matrices_.emplace_back(quantised.b, pair.n_count, pair.rank).append_to(b);
  }

  Rows a, b;
  std::vector<float> scale;  // of h, by rank

 private:
  std::deque<UnsignedRows> matrices_;  // what the rows point into
};

}  // namespace

CpuLora::CpuLora(const LoraSource& source, DType dtype) : n_(source.n) {
  const PanelKind kind = panel_kind(dtype);
  const std::vector<float> zeros(static_cast<size_t>(source.k));
  std::deque<PairRows> pairs;
  Rows a_rows;
  size_t b_bytes = 0;
  for (const LoraPairSource& pair : source.pairs) {
    const PairRows& rows = pairs.emplace_back(pair, source.k, kind);
    const PanelLayout b_layout{kind, pair.n_count, pair.rank};
    pairs_.push_back({pair.n_begin, static_cast<int64_t>(a_rows.size()), b_layout, nullptr});
    a_rows.insert(a_rows.end(), rows.a.begin(), rows.a.end());
    h_scale_.insert(h_scale_.end(), rows.scale.begin(), rows.scale.end());
    while (static_cast<int64_t>(a_rows.size()) % stack_step(kind) != 0) {
      a_rows.push_back({zeros.data(), DType::kF32});
      h_scale_.push_back(0.0f);
    }
    total_rank_ += pair.rank;
    b_bytes += b_layout.bytes();
  }
  a_layout_ = {kind, static_cast<int64_t>(a_rows.size()), source.k};
  h_scale_.resize(static_cast<size_t>(a_layout_.panels() * kLanes));
  buffer_ = HugeBuffer(a_layout_.bytes() + b_bytes);
  pack_panels(a_layout_, a_rows, buffer_.data());

  std::byte* next = buffer_.data() + a_layout_.bytes();
  for (size_t i = 0; i < pairs_.size(); ++i) {
    pack_panels(pairs_[i].b_layout, pairs[i].b, next);
    pairs_[i].b = next;
    next += pairs_[i].b_layout.bytes();
  }
}

}  // namespace polylora::cpu
