// Quantised weights taken apart: integer codes, and scales that neighbours along a row share.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace polylora {

/// How the values of a row are coded: w[i] = scale * (q[i] - zero_point) + min, with q in [0, 2^bits) and one
/// scale and one min for every `group` adjacent values.
struct CodeFormat {
  int bits = 0;   // 0: plain floats, not coded
  int group = 1;  // 32, 16, or 1: no neighbours need share a scale, so only the floats are of use
  int zero_point = 0;
  bool has_min = false;
};

/// Adjacent codes of a row, not more than kMax: a block of a GGUF format, or as many of a longer group.
struct CodeBlock {
  static constexpr int kMax = 256;
  uint8_t q[kMax];
  float scale[kMax / 16];
  float min[kMax / 16];  // zero where the format has none
};

/// bits == 0 for plain types.
CodeFormat code_format(DType dtype);

/// Takes one block of a GGUF block format apart: dtype_block_size codes.
void read_codes(DType dtype, const std::byte* block, CodeBlock& out);

/// out[i] = w[i] for the first `count` codes, a multiple of format.group.
void widen_codes(const CodeFormat& format, const CodeBlock& block, int count, float* out);

}  // namespace polylora
