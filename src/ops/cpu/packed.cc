#include "ops/cpu/packed.h"

#include <array>
#include <cstring>

#include "base/parallel.h"

namespace polylora::cpu {
namespace {

static_assert(kGroup == kQuantGroup);

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// In groups that have scales in the panel.
bool is_quantised(PanelKind kind) {
  return kind != PanelKind::kF32 && kind != PanelKind::kBf16 && kind != PanelKind::kI8;
}
bool has_nibbles(PanelKind kind) {
  return kind == PanelKind::kQ4 || kind == PanelKind::kQ4Min;
}
bool has_min(PanelKind kind) {
  return kind == PanelKind::kQ8Min || kind == PanelKind::kQ4Min;
}
PanelKind panel_kind(WeightFormat format, QuantScheme scheme) {
  switch (format) {
    case WeightFormat::kF32:
      return PanelKind::kF32;
    case WeightFormat::kBf16:
      return PanelKind::kBf16;
    case WeightFormat::kQ8:
      return scheme.has_min ? PanelKind::kQ8Min : PanelKind::kQ8;
    default:
      return scheme.has_min ? PanelKind::kQ4Min : PanelKind::kQ4;
  }
}

/// Turns 16 rows of a matrix into one panel. Every format is 4 bytes per lane and step, so a row is first
/// brought into lane form (its own bytes in step order, without a copy where the checkpoint already has them
/// so) and the 16 lanes are then interleaved.
class PanelPacker {
 public:
  PanelPacker(const PanelLayout& layout, QuantScheme scheme) : layout_(layout), scheme_(scheme) {}

  void pack(std::span<const WeightSource::Row> rows, std::byte* panel) {
    Lanes lanes;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = lane < rows.size() ? lane_of(rows[lane], lane, panel) : zero_lane();
    }
    if (!is_quantised(layout_.kind)) {
      interleave(lanes, 0, layout_.steps(), panel);
      return;
    }
    const int64_t steps = layout_.steps_per_group();
    for (int64_t g = 0; g < layout_.k / kGroup; ++g) {
      interleave(lanes, g * steps, steps, panel + layout_.group_offset(g));
    }
  }

 private:
  using Lanes = std::array<const std::byte*, kLanes>;

  static void interleave(const Lanes& lanes, int64_t first_step, int64_t steps, std::byte* out) {
    for (int64_t s = first_step; s < first_step + steps; ++s, out += kRowBytes) {
      for (size_t lane = 0; lane < kLanes; ++lane) std::memcpy(out + 4 * lane, lanes[lane] + 4 * s, 4);
    }
  }

  const std::byte* lane_of(const WeightSource::Row& row, size_t lane, std::byte* panel) {
    const bool as_stored =
        (layout_.kind == PanelKind::kF32 && row.is_plain(DType::kF32)) ||
        (layout_.kind == PanelKind::kBf16 && row.is_plain(DType::kBf16) && layout_.k % 2 == 0) ||
        layout_.kind == PanelKind::kI8;
    if (as_stored) return static_cast<const std::byte*>(row.data);
    std::byte* out = converted_lane(lane);
    if (is_quantised(layout_.kind)) {
      quantise(row, lane, panel, out);
    } else {
      convert(row, out);
    }
    return out;
  }

  const std::byte* zero_lane() {
    zeros_.resize(static_cast<size_t>(layout_.steps()) * 4);
    return zeros_.data();
  }

  std::byte* converted_lane(size_t lane) {
    const auto lane_bytes = static_cast<size_t>(layout_.steps()) * 4;
    converted_.resize(lane_bytes * kLanes);
    return converted_.data() + lane * lane_bytes;
  }

  void convert(const WeightSource::Row& row, std::byte* out) {
    wide_.resize(static_cast<size_t>(round_up(layout_.k, 2)));
    row.read(layout_.k, wide_.data());
    if (layout_.kind == PanelKind::kF32) {
      std::memcpy(out, wide_.data(), static_cast<size_t>(layout_.k) * sizeof(float));
      return;
    }
    if (layout_.k % 2 != 0) wide_.back() = 0.0f;
    auto* narrow = reinterpret_cast<uint16_t*>(out);
    for (size_t i = 0; i < wide_.size(); ++i) narrow[i] = f32_to_bf16(wide_[i]);
  }

  void quantise(const WeightSource::Row& row, size_t lane, std::byte* panel, std::byte* out) {
    groups_.resize(static_cast<size_t>(layout_.k / kGroup));
    const WeightFormat format = has_nibbles(layout_.kind) ? WeightFormat::kQ4 : WeightFormat::kQ8;
    quantize_row(row, layout_.k, format, scheme_, groups_.data());
    for (size_t g = 0; g < groups_.size(); ++g) {
      const QuantGroup& group = groups_[g];
      std::byte* scales = panel + layout_.scale_offset(static_cast<int64_t>(g)) + 2 * lane;
      std::memcpy(scales, &group.scale, 2);
      if (has_min(layout_.kind)) std::memcpy(scales + 2 * kLanes, &group.min, 2);
      out = has_nibbles(layout_.kind) ? put_nibbles(group, out) : put_bytes(group, out);
    }
  }

  static std::byte* put_bytes(const QuantGroup& group, std::byte* out) {
    std::memcpy(out, group.q, kGroup);
    return out + kGroup;
  }

  static std::byte* put_nibbles(const QuantGroup& group, std::byte* out) {
    for (int i = 0; i < kGroup; i += 8, out += 4) {
      uint32_t low;
      uint32_t high;
      std::memcpy(&low, group.q + i, 4);
      std::memcpy(&high, group.q + i + 4, 4);
      const uint32_t both = low | high << 4;
      std::memcpy(out, &both, 4);
    }
    return out;
  }

  const PanelLayout layout_;
  const QuantScheme scheme_;
  std::vector<std::byte> zeros_;
  std::vector<std::byte> converted_;
  std::vector<float> wide_;
  std::vector<QuantGroup> groups_;
};

void pack_some_panels(const PanelLayout& layout, QuantScheme scheme, std::span<const WeightSource::Row> rows,
                      std::byte* out, int64_t begin, int64_t end) {
  PanelPacker packer(layout, scheme);
  for (int64_t p = begin; p < end; ++p) {
    const auto first = static_cast<size_t>(p * kLanes);
    const size_t count = std::min<size_t>(kLanes, rows.size() - first);
    packer.pack(rows.subspan(first, count), out + static_cast<size_t>(p) * layout.panel_bytes());
  }
}

template <typename T>
T load_at(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace

int64_t PanelLayout::steps() const {
  if (kind == PanelKind::kF32) return k;
  if (kind == PanelKind::kBf16) return (k + 1) / 2;
  if (kind == PanelKind::kI8) return (k + 3) / 4;
  return k / kGroup * steps_per_group();
}

int64_t PanelLayout::steps_per_group() const {
  return has_nibbles(kind) ? kGroup / 8 : kGroup / 4;
}

int64_t PanelLayout::groups_per_header() const {
  return has_min(kind) ? 1 : 2;
}

size_t PanelLayout::panel_bytes() const {
  const int64_t per_header = groups_per_header();
  const int64_t headers = is_quantised(kind) ? (k / kGroup + per_header - 1) / per_header : 0;
  return static_cast<size_t>(headers + steps()) * kRowBytes;
}

size_t PanelLayout::group_offset(int64_t g) const {
  const int64_t headers = g / groups_per_header() + 1;
  return static_cast<size_t>(headers + g * steps_per_group()) * kRowBytes;
}

size_t PanelLayout::scale_offset(int64_t g) const {
  const int64_t within = g % groups_per_header();
  return group_offset(g - within) - kRowBytes + static_cast<size_t>(within) * 2 * kLanes;
}

// --- weights ---------------------------------------------------------------------------------------------

CpuWeight::CpuWeight(const WeightSource& source, WeightFormat format, int threads) : format_(format) {
  if (format == WeightFormat::kQ8 || format == WeightFormat::kQ4) scheme_ = quant_scheme(source, format);
  layout_ = {panel_kind(format, scheme_), static_cast<int64_t>(source.rows.size()), source.cols};
  buffer_ = HugeBuffer(layout_.bytes());
  constexpr size_t kWorthThreads = size_t{1} << 18;  // bytes; a thread costs about 20 µs
  const int useful = layout_.bytes() < kWorthThreads ? 1 : threads;
  run_on_threads(useful, [&](int i) {
    pack_some_panels(layout_, scheme_, source.rows, buffer_.data(), layout_.panels() * i / useful,
                     layout_.panels() * (i + 1) / useful);
  });
}

void CpuWeight::read_row(int64_t row, float* out) const {
  const std::byte* panel = panels() + static_cast<size_t>(row / kLanes) * layout_.panel_bytes();
  const int64_t lane = row % kLanes;
  if (is_quantised(layout_.kind)) {
    read_quantised_row(panel, lane, out);
    return;
  }
  const std::byte* at = panel + 4 * lane;
  if (layout_.kind == PanelKind::kF32) {
    for (int64_t k = 0; k < layout_.k; ++k, at += kRowBytes) out[k] = load_at<float>(at);
    return;
  }
  for (int64_t k = 0; k < layout_.k; ++k) {
    out[k] = bf16_to_f32(load_at<uint16_t>(at + k / 2 * kRowBytes + k % 2 * 2));
  }
}

void CpuWeight::read_quantised_row(const std::byte* panel, int64_t lane, float* out) const {
  const bool nibbles = has_nibbles(layout_.kind);
  for (int64_t g = 0; g < layout_.k / kGroup; ++g) {
    const std::byte* scales = panel + layout_.scale_offset(g) + 2 * lane;
    const float scale = f16_to_f32(load_at<uint16_t>(scales));
    const float min = has_min(layout_.kind) ? f16_to_f32(load_at<uint16_t>(scales + 2 * kLanes)) : 0.0f;
    const auto value = [&](int q) { return scale * static_cast<float>(q - scheme_.zero_point) + min; };
    const std::byte* at = panel + layout_.group_offset(g) + 4 * lane;
    for (int64_t s = 0; s < layout_.steps_per_group(); ++s, at += kRowBytes) {
      const auto bytes = load_at<std::array<uint8_t, 4>>(at);
      for (const uint8_t byte : bytes) *out++ = value(nibbles ? byte & 15 : byte);
      if (!nibbles) continue;
      for (const uint8_t byte : bytes) *out++ = value(byte >> 4);
    }
  }
}

void pack_panels(const PanelLayout& layout, std::span<const WeightSource::Row> rows, std::byte* out) {
  pack_some_panels(layout, {}, rows, out, 0, layout.panels());
}

}  // namespace polylora::cpu
