// A tensor as an adapter's file holds it, and how to read it as PEFT has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace polylora {

/// How a file holds the values of a matrix.
enum class StoredLayout : uint8_t {
  kRows,              // row-major
  kTransposed,        // column-major
  kInterleavedHeads,  // row-major; rows 2i and 2i+1 of a head are its rows i and i + E/2 (GGUF's q and k)
};

/// A tensor inside a mapped file, not yet read. The file must outlive it.
struct StoredTensor {
  std::vector<int64_t> shape = {};  // outermost first; of what read() gives
  TensorView stored = {};           // of kTransposed: the reversed shape
  StoredLayout layout = StoredLayout::kRows;
  int64_t head_dim = 0;  // E, for kInterleavedHeads: even, and the number of rows is a multiple of it

  /// What read() gives without conversion: the stored type, F32 for GGUF's blocks.
  DType dtype() const;
  /// The values, row-major, in `as`: dtype() or F32. A view of the file where it holds just that; else they
  /// are written into `room`. Any thread.
  TensorView read(DType as, std::vector<std::byte>& room) const;
};

/// Throws kDataCorrupt when the values, which `where` names, hold NaN or infinity.
void check_finite(const TensorView& values, const std::string& where);

}  // namespace polylora
