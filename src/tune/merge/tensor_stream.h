// Tensors of a base model on their way into files: merged, converted and written in blocks of rows by several
// threads. Memory is a few megabytes per thread, whatever the model's size.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/progress.h"
#include "io/base_tensors.h"
#include "io/tensor_writer.h"
#include "tune/merge/merge.h"

namespace polylora {

/// One tensor to write.
struct OutputTensor {
  float offset() const { return source->offset + added; }  // to the stored values

  TensorInfo info;  // shape as the source's; a dtype that is not float is the source's own
  const BaseTensor* source = nullptr;
  std::span<const TensorEdit> edits = {};
  int expert = -1;          // whose matrix it is, where a file has one tensor for all experts
  int rotary_pairs_of = 0;  // > 0: heads of this size, rows in llama.cpp's order (0, E/2, 1, E/2 + 1, …)
  float added = 0.0f;       // to HF's values
  TensorWriter* writer = nullptr;
  size_t index = 0;  // in the writer
  uint64_t at = 0;   // within that tensor, in bytes: of one expert's matrix in the tensor of all
};

struct StreamOptions {
  DType load_dtype = DType::kF32;  // see RowMerger
  int threads = 0;                 // 0: one per core
  ProgressFn progress = {};        // fractions of the bytes
  const std::atomic<bool>* cancelled = nullptr;
};

/// Writes all data; the writers stay uncommitted. Throws kIo; kDataCorrupt when a value does not fit F16;
/// kUnavailable once `cancelled` is true.
void write_tensors(const BaseTensors& base, std::span<const OutputTensor> outputs,
                   const StreamOptions& options);

/// F32, F16, BF16 and GGUF's blocks: what can be merged into and converted.
bool is_float(DType dtype);

}  // namespace polylora
