#include "base/dtype.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "base/codes.h"
#include "base/error.h"

namespace polylora {
namespace {

struct DTypeRow {
  std::string_view name;
  int block_size;
  int block_bytes;
};

constexpr DTypeRow kRows[] = {
    {"F32", 1, 4},      {"F16", 1, 2},        {"BF16", 1, 2},     {"F64", 1, 8},      {"I64", 1, 8},
    {"I32", 1, 4},      {"I16", 1, 2},        {"I8", 1, 1},       {"U8", 1, 1},       {"BOOL", 1, 1},
    {"Q8_0", 32, 34},   {"Q4_0", 32, 18},     {"Q4_1", 32, 20},   {"Q5_0", 32, 22},   {"Q5_1", 32, 24},
    {"Q2_K", 256, 84},  {"Q3_K", 256, 110},   {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
    {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}, {"F8_E4M3", 1, 1},
};

const DTypeRow& row_of(DType dtype) {
  return kRows[static_cast<size_t>(dtype)];
}

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

void dequantize_blocks(DType dtype, const std::byte* block, int64_t n, float* out) {
  const CodeFormat format = code_format(dtype);
  const int size = dtype_block_size(dtype);
  CodeBlock codes;
  for (int64_t i = 0; i < n; i += size, block += dtype_block_bytes(dtype)) {
    read_codes(dtype, block, codes);
    widen_codes(format, codes, size, out + i);
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}
int dtype_block_size(DType dtype) {
  return row_of(dtype).block_size;
}
int dtype_block_bytes(DType dtype) {
  return row_of(dtype).block_bytes;
}

void dequantize_row(DType dtype, const void* row, int64_t n, float* out) {
  const auto* bytes = static_cast<const std::byte*>(row);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBf16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_f32(load<uint16_t>(bytes + 2 * i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_f32(load<uint16_t>(bytes + 2 * i));
      return;
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load<double>(bytes + 8 * i));
      return;
    case DType::kF8E4m3:
      for (int64_t i = 0; i < n; ++i) out[i] = f8e4m3_to_f32(static_cast<uint8_t>(bytes[i]));
      return;
    default:
      if (dtype_block_size(dtype) > 1) return dequantize_blocks(dtype, bytes, n, out);
      fail(ErrorCode::kUnsupported, "cannot read {} elements as weights", dtype_name(dtype));
  }
}

namespace {

/// NaN and infinity are the numbers with all bits of the exponent set. Blocks of a fixed size without a
/// branch inside are what compilers vectorise.
template <typename Bits>
bool none_has_all_of(Bits exponent, const std::byte* data, int64_t n) {
  constexpr int64_t kBlock = 64;
  Bits found = 0;
  const auto look_at = [&](int64_t i) {
    const auto bits = load<Bits>(data + static_cast<int64_t>(sizeof(Bits)) * i);
    found |= static_cast<Bits>((bits & exponent) == exponent);
  };
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (int64_t j = 0; j < kBlock; ++j) look_at(i + j);
  }
  for (; i < n; ++i) look_at(i);
  return found == 0;
}

}  // namespace

bool all_finite(DType dtype, const void* data, int64_t n) {
  const auto* bytes = static_cast<const std::byte*>(data);
  switch (dtype) {
    case DType::kF32:
      return none_has_all_of<uint32_t>(0x7f800000u, bytes, n);
    case DType::kBf16:
      return none_has_all_of<uint16_t>(0x7f80u, bytes, n);
    case DType::kF16:
      return none_has_all_of<uint16_t>(0x7c00u, bytes, n);
    case DType::kF64:
      return none_has_all_of<uint64_t>(0x7ff0000000000000u, bytes, n);
    default:
      fail(ErrorCode::kUnsupported, "{} elements are no floating-point numbers", dtype_name(dtype));
  }
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t exponent32 = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | (exponent32 << 23) | (mantissa << 13));
}

float f8e4m3_to_f32(uint8_t bits) {
  const float sign = bits & 0x80u ? -1.0f : 1.0f;
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-9f;
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds up past 65504
  if (magnitude < 0x38800000u) {  // subnormal result: round the multiple of 2^-24 to nearest even
    const float scaled = std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace polylora
