#include "ops/quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

constexpr float kLargestF16 = 65504.0f;

int symmetric_zero_point(WeightFormat format) {
  return format == WeightFormat::kQ8 ? 128 : 8;
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
  group.min = scheme.has_min ? checked_f16(-128.0f * f16_to_f32(group.scale)) : uint16_t{0};
}

void round_to_q4(const float* w, QuantGroup& group) {
  const auto [low, high] = std::minmax_element(w, w + kQuantGroup);
  group.min = checked_f16(*low);
  const float min = f16_to_f32(group.min);
  group.scale = checked_f16(std::max(*high - min, 0.0f) / 15.0f);
  const float inverse = inverse_or_zero(f16_to_f32(group.scale));
  for (int i = 0; i < kQuantGroup; ++i) group.q[i] = round_to_range((w[i] - min) * inverse, 15.0f);
}

/// Rows whose codes the format cannot hold as they are: widen, then round each group.
void round_row(const WeightSource::Row& row, int64_t cols, WeightFormat format, QuantScheme scheme,
               QuantGroup* groups) {
  std::vector<float> wide(static_cast<size_t>(cols));
  row.read(cols, wide.data());
  for (int64_t g = 0; g < cols / kQuantGroup; ++g) {
    const float* w = wide.data() + g * kQuantGroup;
    if (format == WeightFormat::kQ8) {
      round_to_q8(w, scheme, groups[g]);
    } else {
      round_to_q4(w, groups[g]);
    }
  }
}

bool keeps_codes(const CodeFormat& codes, WeightFormat format) {
  return codes.bits != 0 && codes.group == kQuantGroup && codes.bits <= (format == WeightFormat::kQ8 ? 8 : 4);
}

/// Group g of a block, its codes moved to the scheme's zero point, or its zero point into the min.
void keep_codes(const CodeBlock& block, int g, const CodeFormat& codes, QuantScheme scheme,
                QuantGroup& group) {
  const int shift = scheme.has_min ? 0 : scheme.zero_point - codes.zero_point;
  for (int i = 0; i < kQuantGroup; ++i)
    group.q[i] = static_cast<uint8_t>(block.q[g * kQuantGroup + i] + shift);
  group.scale = checked_f16(block.scale[g]);
  const float min = block.min[g] - static_cast<float>(codes.zero_point) * f16_to_f32(group.scale);
  group.min = scheme.has_min ? checked_f16(min) : uint16_t{0};
}

}  // namespace

QuantScheme quant_scheme(const WeightSource& source, WeightFormat format) {
  const bool has_min = std::any_of(source.rows.begin(), source.rows.end(), [&](const WeightSource::Row& row) {
    const CodeFormat codes = row.codes();
    return keeps_codes(codes, format) ? codes.has_min : format == WeightFormat::kQ4;
  });
  if (has_min) return {.zero_point = 0, .has_min = true};
  return {.zero_point = symmetric_zero_point(format), .has_min = false};
}

void quantize_row(const WeightSource::Row& row, int64_t cols, WeightFormat format, QuantScheme scheme,
                  QuantGroup* groups) {
  const CodeFormat codes = row.codes();
  if (!keeps_codes(codes, format)) {
    round_row(row, cols, format, scheme, groups);
    return;
  }
  CodeBlock block;
  for (int64_t begin = 0; begin < cols;) {
    const int count = row.read_codes(begin, cols, block);
    for (int g = 0; g < count / kQuantGroup; ++g) keep_codes(block, g, codes, scheme, *groups++);
    begin += count;
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
