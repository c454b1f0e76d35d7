#include "base/codes.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace polylora {
namespace {

// The layouts are ggml's (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, block_q4_0 and on).
constexpr int kSuperBlock = 256;

uint8_t byte_at(const std::byte* at) {
  return static_cast<uint8_t>(*at);
}

float half_at(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return f16_to_f32(bits);
}

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// 16 bytes are 32 codes: the low halves first.
void read_nibbles(const std::byte* at, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = byte_at(at + i) & 15u;
    q[i + 16] = byte_at(at + i) >> 4;
  }
}

void set_scales(CodeBlock& out, int count, float scale, float min = 0.0f) {
  std::fill_n(out.scale, count, scale);
  std::fill_n(out.min, count, min);
}

void read_q8_0(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block));
  for (int i = 0; i < 32; ++i) out.q[i] = byte_at(block + 2 + i) ^ 0x80u;
}

void read_q4_0(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block));
  read_nibbles(block + 2, out.q);
}

void read_q4_1(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block), half_at(block + 2));
  read_nibbles(block + 4, out.q);
}

void add_fifth_bits(uint32_t bits, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] |= static_cast<uint8_t>((bits >> i & 1u) << 4);
}

void read_q5_0(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block));
  read_nibbles(block + 6, out.q);
  add_fifth_bits(load<uint32_t>(block + 2), out.q);
}

void read_q5_1(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block), half_at(block + 2));
  read_nibbles(block + 8, out.q);
  add_fifth_bits(load<uint32_t>(block + 4), out.q);
}

/// A field of `bits` bits of 256 codes in runs of 32 bytes, the first run's lowest bits first.
template <int Bits>
uint8_t plane(const std::byte* bytes, int i) {
  constexpr int kPerByte = 8 / Bits;
  const int run = i / 32;
  return static_cast<uint8_t>(byte_at(bytes + run / kPerByte * 32 + i % 32) >> (run % kPerByte * Bits) &
                              ((1 << Bits) - 1));
}

void read_q2_k(const std::byte* block, CodeBlock& out) {
  const float d = half_at(block + 80), dmin = half_at(block + 82);
  for (int g = 0; g < 16; ++g) {
    out.scale[g] = d * static_cast<float>(byte_at(block + g) & 15u);
    out.min[g] = -dmin * static_cast<float>(byte_at(block + g) >> 4);
  }
  for (int i = 0; i < kSuperBlock; ++i) out.q[i] = plane<2>(block + 16, i);
}

void read_q3_k(const std::byte* block, CodeBlock& out) {
  const std::byte* high_bits = block;
  const std::byte* scales = block + 96;
  const float d = half_at(block + 108);
  for (int g = 0; g < 16; ++g) {  // six bits: four in the first eight bytes, two in the last four
    const int low = byte_at(scales + g % 8) >> (g / 8 * 4) & 15;
    const int high = byte_at(scales + 8 + g % 4) >> (g / 4 * 2) & 3;
    out.scale[g] = d * static_cast<float>((low | high << 4) - 32);
    out.min[g] = 0.0f;
  }
  for (int i = 0; i < kSuperBlock; ++i)
    out.q[i] = static_cast<uint8_t>(plane<2>(block + 32, i) | plane<1>(high_bits, i) << 2);
}

/// The scales and mins of Q4_K and Q5_K: d, dmin, then eight of each in six bits.
void read_k_scales(const std::byte* block, CodeBlock& out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const std::byte* s = block + 4;
  for (int g = 0; g < 8; ++g) {
    int scale = byte_at(s + g % 4) & 63, min = byte_at(s + 4 + g % 4) & 63;
    if (g >= 4) {
      scale = (byte_at(s + 4 + g) & 15) | (byte_at(s + g - 4) >> 6) << 4;
      min = byte_at(s + 4 + g) >> 4 | (byte_at(s + g) >> 6) << 4;
    }
    out.scale[g] = d * static_cast<float>(scale);
    out.min[g] = -dmin * static_cast<float>(min);
  }
}

void read_q4_k(const std::byte* block, CodeBlock& out) {
  read_k_scales(block, out);
  for (int i = 0; i < kSuperBlock; ++i) out.q[i] = plane<4>(block + 16, i);
}

void read_q5_k(const std::byte* block, CodeBlock& out) {
  read_k_scales(block, out);
  for (int i = 0; i < kSuperBlock; ++i)
    out.q[i] = static_cast<uint8_t>(plane<4>(block + 48, i) | plane<1>(block + 16, i) << 4);
}

void read_q6_k(const std::byte* block, CodeBlock& out) {
  const std::byte* scales = block + 192;
  const float d = half_at(block + 208);
  for (int g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(static_cast<int8_t>(scales[g]));
  std::fill_n(out.min, 16, 0.0f);
  for (int i = 0; i < kSuperBlock; ++i) {  // low halves: 64 bytes are 128 codes
    const int low = byte_at(block + i / 128 * 64 + i % 64) >> (i / 64 % 2 * 4) & 15;
    out.q[i] = static_cast<uint8_t>(low | plane<2>(block + 128, i) << 4);
  }
}

/// IQ4's sixteen levels, as codes with the zero point 128.
constexpr uint8_t kIq4Levels[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

void read_iq4_levels(const std::byte* at, uint8_t* q) {
  read_nibbles(at, q);
  for (int i = 0; i < 32; ++i) q[i] = kIq4Levels[q[i]];
}

void read_iq4_nl(const std::byte* block, CodeBlock& out) {
  set_scales(out, 1, half_at(block));
  read_iq4_levels(block + 2, out.q);
}

void read_iq4_xs(const std::byte* block, CodeBlock& out) {
  const float d = half_at(block);
  const auto high_bits = load<uint16_t>(block + 2);
  for (int g = 0; g < 8; ++g) {
    const int low = byte_at(block + 4 + g / 2) >> (g % 2 * 4) & 15;
    const int high = high_bits >> (2 * g) & 3;
    out.scale[g] = d * static_cast<float>((low | high << 4) - 32);
    out.min[g] = 0.0f;
    read_iq4_levels(block + 8 + 16 * g, out.q + 32 * g);
  }
}

}  // namespace

CodeFormat code_format(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
    case DType::kIq4Nl:
    case DType::kIq4Xs:
      return {.bits = 8, .group = 32, .zero_point = 128};
    case DType::kQ4_0:
      return {.bits = 4, .group = 32, .zero_point = 8};
    case DType::kQ4_1:
    case DType::kQ4K:
      return {.bits = 4, .group = 32, .has_min = true};
    case DType::kQ5_0:
      return {.bits = 5, .group = 32, .zero_point = 16};
    case DType::kQ5_1:
    case DType::kQ5K:
      return {.bits = 5, .group = 32, .has_min = true};
    case DType::kQ2K:
      return {.bits = 2, .group = 16, .has_min = true};
    case DType::kQ3K:
      return {.bits = 3, .group = 16, .zero_point = 4};
    case DType::kQ6K:
      return {.bits = 6, .group = 16, .zero_point = 32};
    default:
      return {};
  }
}

void read_codes(DType dtype, const std::byte* block, CodeBlock& out) {
  switch (dtype) {
    case DType::kQ8_0:
      return read_q8_0(block, out);
    case DType::kQ4_0:
      return read_q4_0(block, out);
    case DType::kQ4_1:
      return read_q4_1(block, out);
    case DType::kQ5_0:
      return read_q5_0(block, out);
    case DType::kQ5_1:
      return read_q5_1(block, out);
    case DType::kQ2K:
      return read_q2_k(block, out);
    case DType::kQ3K:
      return read_q3_k(block, out);
    case DType::kQ4K:
      return read_q4_k(block, out);
    case DType::kQ5K:
      return read_q5_k(block, out);
    case DType::kQ6K:
      return read_q6_k(block, out);
    case DType::kIq4Nl:
      return read_iq4_nl(block, out);
    case DType::kIq4Xs:
      return read_iq4_xs(block, out);
    default:
      check(false, "a block format");
  }
}

void widen_codes(const CodeFormat& format, const CodeBlock& block, int count, float* out) {
  for (int begin = 0; begin < count; begin += format.group) {
    const float scale = block.scale[begin / format.group], min = block.min[begin / format.group];
    for (int i = begin; i < begin + format.group; ++i)
      out[i] = scale * static_cast<float>(block.q[i] - format.zero_point) + min;
  }
}

}  // namespace polylora
