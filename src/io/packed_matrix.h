// Quantised matrices as Hugging Face checkpoints store them (GPTQ, AWQ, compressed-tensors, FP8), read by
// rows.
//
// However a format arranges its tensors, w[n,k] = scale(n, g) * (q(n, k) - zero(n, g)), where group g holds
// column k. What differs is where q, zero and scale lie; that is all that is said here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "ops/weight.h"

namespace polylora {

/// A matrix of unsigned integers of a few bits, packed along one of its two axes into units of 8 or 32 bits,
/// lowest bits first; a value may straddle two units (3 bits). Strides are in bytes.
struct PackedInts {
  const std::byte* data = nullptr;
  int bits = 4;
  int unit_bits = 32;
  bool along_rows = false;    // the packed axis is the row's (else the column's)
  int64_t packed_stride = 4;  // from unit to unit along the packed axis
  int64_t other_stride = 0;
  uint32_t flip = 0;            // XORed: 128 makes signed bytes unsigned
  bool is_interleaved = false;  // AWQ: a word's values are 0, 2, 4, 6, 1, 3, 5, 7

  int get(int64_t row, int64_t col) const;
};

/// Scales of blocks of a matrix; strides are in elements, 0 along an axis that shares them.
struct ScaleGrid {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t row_block = 1;  // rows of the matrix that share a scale
  int64_t row_stride = 0;
  int64_t group_stride = 0;

  float get(int64_t row, int64_t group) const;
};

/// Integer codes with scales in groups along K. Pointers are into mapped files.
struct IntegerLayout {
  std::string name;  // "GPTQ int4"
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;  // columns that share a scale, in order; unused with column_groups
  int64_t groups = 0;
  PackedInts codes = {};
  ScaleGrid scales = {};
  std::optional<PackedInts> zeros = {};     // [rows, groups]; absent: half of the range
  int zero_offset = 0;                      // added to `zeros`, within the bits of a code
  std::vector<int32_t> column_groups = {};  // by column, when they are not in order (act-order)
};

std::unique_ptr<StoredMatrix> make_integer_matrix(IntegerLayout layout);

/// E4M3 values w[rows, cols] times scales of blocks.
std::unique_ptr<StoredMatrix> make_fp8_matrix(const TensorView& weight, const ScaleGrid& scales,
                                              int64_t col_block);

}  // namespace polylora
