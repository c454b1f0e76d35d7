// Element types of tensors, as checkpoints store them and as the program computes with them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace polylora {

/// From kQ8_0 to kIq4Xs they are GGUF's block formats: 32 or 256 weights along a row, with scales of their
/// own (base/codes.h takes them apart). kF8E4m3 has no infinity (OCP's E4M3, torch.float8_e4m3fn).
enum class DType : uint8_t {
  kF32,
  kF16,
  kBf16,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
  kIq4Nl,
  kIq4Xs,
  kF8E4m3
};

/// "F32", "BF16", … as safetensors and GGUF spell them.
std::string_view dtype_name(DType dtype);

/// Elements per storage block (1 for plain types, 32 or 256 for GGUF blocks).
int dtype_block_size(DType dtype);

/// Bytes of one storage block.
int dtype_block_bytes(DType dtype);

/// Bytes of a row of `n` elements; n must be a multiple of dtype_block_size.
inline size_t dtype_row_bytes(DType dtype, int64_t n) {
  return static_cast<size_t>(n / dtype_block_size(dtype)) * static_cast<size_t>(dtype_block_bytes(dtype));
}

/// Widens one stored row of `n` elements (float or block dtype) to f32. Throws kUnsupported for integer
/// types.
void dequantize_row(DType dtype, const void* row, int64_t n, float* out);

/// Whether none of `n` adjacent elements of kF32, kF16, kBf16 or kF64 is NaN or infinite.
bool all_finite(DType dtype, const void* data, int64_t n);

inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest even, NaN kept quiet: what torch's .to(bfloat16) does.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f8e4m3_to_f32(uint8_t bits);
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace polylora
