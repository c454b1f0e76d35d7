#include "ops/quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

constexpr float kLargestF16 = 65504.0f;

uint16_t load_u16(const std::byte* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// -zero_point * scale for a symmetric group inside a with-min matrix.
uint16_t symmetric_min(uint16_t scale, int zero_point) {
  const float min = -static_cast<float>(zero_point) * f16_to_f32(scale);
  if (!(std::fabs(min) <= kLargestF16)) {
    fail(ErrorCode::kUnsupported, "a quantised weight has the scale {}, too large to mix with Q4_1 rows",
         f16_to_f32(scale));
  }
  return f32_to_f16(min);
}

int symmetric_zero_point(WeightFormat format) {
  return format == WeightFormat::kQ8 ? 128 : 8;
}

void finish_symmetric(QuantGroup& group, int zero_point, QuantScheme scheme) {
  group.min = scheme.has_min ? symmetric_min(group.scale, zero_point) : uint16_t{0};
}

void read_q8_0(const std::byte* block, QuantScheme scheme, QuantGroup& group) {
  group.scale = load_u16(block);
  for (int i = 0; i < kQuantGroup; ++i) group.q[i] = static_cast<uint8_t>(block[2 + i]) ^ 0x80u;
  finish_symmetric(group, 128, scheme);
}

void read_nibbles(const std::byte* nibbles, QuantGroup& group) {
  for (int i = 0; i < kQuantGroup / 2; ++i) {
    const auto pair = static_cast<uint8_t>(nibbles[i]);
    group.q[i] = pair & 15u;
    group.q[i + kQuantGroup / 2] = pair >> 4;
  }
}

void read_q4_0(const std::byte* block, WeightFormat format, QuantScheme scheme, QuantGroup& group) {
  group.scale = load_u16(block);
  read_nibbles(block + 2, group);
  // Inside a symmetric q8 matrix the zero point is 128, not 8.
  const int shift = scheme.has_min ? 0 : symmetric_zero_point(format) - 8;
  for (uint8_t& q : group.q) q = static_cast<uint8_t>(q + shift);
  finish_symmetric(group, 8, scheme);
}

void read_q4_1(const std::byte* block, QuantGroup& group) {
  group.scale = load_u16(block);
  group.min = load_u16(block + 2);
  read_nibbles(block + 4, group);
}

uint16_t checked_f16(float value) {
  if (!(std::fabs(value) <= kLargestF16)) {
    fail(ErrorCode::kUnsupported, "weights near {} cannot be quantised", value);
  }
  return f32_to_f16(value);
}

float inverse_or_zero(float scale) {
  return scale > 0.0f ? 1.0f / scale : 0.0f;
}

uint8_t round_to_range(float value, float top) {
  return static_cast<uint8_t>(std::lrintf(std::clamp(value, 0.0f, top)));
}

void round_to_q8(const float* w, QuantScheme scheme, QuantGroup& group) {
  float amax = 0.0f;
  for (int i = 0; i < kQuantGroup; ++i) amax = std::max(amax, std::fabs(w[i]));
  group.scale = checked_f16(amax / 127.0f);
  const float inverse = inverse_or_zero(f16_to_f32(group.scale));
  for (int i = 0; i < kQuantGroup; ++i) group.q[i] = round_to_range(w[i] * inverse + 128.0f, 255.0f);
  finish_symmetric(group, 128, scheme);
}

void round_to_q4(const float* w, QuantGroup& group) {
  const auto [low, high] = std::minmax_element(w, w + kQuantGroup);
  group.min = checked_f16(*low);
  const float min = f16_to_f32(group.min);
  group.scale = checked_f16(std::max(*high - min, 0.0f) / 15.0f);
  const float inverse = inverse_or_zero(f16_to_f32(group.scale));
  for (int i = 0; i < kQuantGroup; ++i) group.q[i] = round_to_range((w[i] - min) * inverse, 15.0f);
}

/// Rows whose values the format cannot hold as they are: widen, then round each group.
void round_row(const WeightSource::Row& row, int64_t cols, WeightFormat format, QuantScheme scheme,
               QuantGroup* groups) {
  std::vector<float> wide(static_cast<size_t>(cols));
  dequantize_row(row.dtype, row.data, cols, wide.data());
  for (int64_t g = 0; g < cols / kQuantGroup; ++g) {
    const float* w = wide.data() + g * kQuantGroup;
    if (format == WeightFormat::kQ8) {
      round_to_q8(w, scheme, groups[g]);
    } else {
      round_to_q4(w, groups[g]);
    }
  }
}

bool held_exactly(DType dtype, WeightFormat format) {
  return dtype == DType::kQ4_0 || dtype == DType::kQ4_1 ||
         (dtype == DType::kQ8_0 && format == WeightFormat::kQ8);
}

}  // namespace

QuantScheme quant_scheme(const WeightSource& source, WeightFormat format) {
  const bool has_min = std::any_of(source.rows.begin(), source.rows.end(), [&](const WeightSource::Row& row) {
    return row.dtype == DType::kQ4_1 || (format == WeightFormat::kQ4 && !held_exactly(row.dtype, format));
  });
  if (has_min) return {.zero_point = 0, .has_min = true};
  return {.zero_point = symmetric_zero_point(format), .has_min = false};
}

void quantize_row(const WeightSource::Row& row, int64_t cols, WeightFormat format, QuantScheme scheme,
                  QuantGroup* groups) {
  if (!held_exactly(row.dtype, format)) {
    round_row(row, cols, format, scheme, groups);
    return;
  }
  const auto* block = static_cast<const std::byte*>(row.data);
  const int block_bytes = dtype_block_bytes(row.dtype);
  for (int64_t g = 0; g < cols / kQuantGroup; ++g, block += block_bytes) {
    switch (row.dtype) {
      case DType::kQ8_0:
        read_q8_0(block, scheme, groups[g]);
        break;
      case DType::kQ4_0:
        read_q4_0(block, format, scheme, groups[g]);
        break;
      default:
        read_q4_1(block, groups[g]);
    }
  }
}

ActivationGroup quantize_activations(const float* x) {
  ActivationGroup group{};
  float amax = 0.0f;
  for (int i = 0; i < kQuantGroup; ++i) amax = std::max(amax, std::fabs(x[i]));
  if (amax < kTinyActivation) return group;
  group.scale = amax / 127.0f;
  const float inverse = 127.0f / amax;
  for (int i = 0; i < kQuantGroup; ++i) group.q[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
  return group;
}

namespace {

float largest_magnitude(const float* x, int64_t n, int64_t stride) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i * stride]));
  return largest;
}

/// q = x / scale for n values that lie `stride` apart, in x as in q; the scale.
float quantize_line(const float* x, int64_t n, int64_t stride, int8_t* q) {
  const float largest = largest_magnitude(x, n, stride);
  const bool tiny = largest < kTinyActivation;
  const float inverse = tiny ? 0.0f : 127.0f / largest;
  for (int64_t i = 0; i < n; ++i)
    q[i * stride] = static_cast<int8_t>(std::nearbyint(x[i * stride] * inverse));
  return tiny ? 0.0f : largest / 127.0f;
}

std::vector<float> as_floats(DType dtype, const void* data, size_t count) {
  std::vector<float> values(count);
  dequantize_row(dtype, data, static_cast<int64_t>(count), values.data());
  return values;
}

}  // namespace

Int8LoraPair quantize_lora_pair(const LoraPairSource& pair, int64_t k) {
  const auto rank = static_cast<size_t>(pair.rank);
  Int8LoraPair out{std::vector<int8_t>(rank * static_cast<size_t>(k)),
                   std::vector<int8_t>(rank * static_cast<size_t>(pair.n_count)),
                   std::vector<float>(rank, pair.scale)};
  const std::vector<float> a = as_floats(pair.dtype, pair.a, out.a.size());
  const std::vector<float> b = as_floats(pair.dtype, pair.b, out.b.size());
  for (size_t r = 0; r < rank; ++r) {
    const size_t row = r * static_cast<size_t>(k);
    out.h_scale[r] *= quantize_line(&a[row], k, 1, &out.a[row]);
    out.h_scale[r] *= quantize_line(&b[r], pair.n_count, pair.rank, &out.b[r]);
  }
  return out;
}

void round_to_int8_groups(float* x, int64_t n) {
  int8_t q[kInt8Group];
  for (int64_t i = 0; i < n; i += kInt8Group) {
    const int64_t count = std::min<int64_t>(kInt8Group, n - i);
    const float scale = quantize_line(x + i, count, 1, q);
    for (int64_t j = 0; j < count; ++j) x[i + j] = scale * static_cast<float>(q[j]);
  }
}

}  // namespace polylora
