// Matrices as a backend holds them: packed once at load, opaque afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/codes.h"
#include "base/dtype.h"
#include "base/tensor.h"

namespace polylora {

/// How a linear's weight is stored and which arithmetic goes with it. The numeric path is a property of the
/// format, never of the number of rows in the batch: that is what makes replies batch-invariant.
///   f32   f32 activations, f32 products
///   bf16  activations rounded to bf16, products and sums in f32
///   q8/q4 groups of 32 along K: w = scale*q + min with unsigned q; activations rounded to int8 per row and
///         group of 32, exact integer sums within a group, f32 across groups
enum class WeightFormat : uint8_t { kF32, kBf16, kQ8, kQ4 };

std::string_view weight_format_name(WeightFormat format);  // "float32", "bfloat16", "q8", "q4"

/// A matrix that a checkpoint does not store row after row (GPTQ's columns of packed integers, say), read by
/// rows all the same. Thread-safe.
class StoredMatrix {
 public:
  virtual ~StoredMatrix() = default;
  virtual CodeFormat code_format() const = 0;
  /// The codes of columns [begin, begin + count) of a row, where code_format().group is 32; begin and count
  /// are multiples of it, count at most CodeBlock::kMax.
  virtual void read_codes(int64_t row, int64_t begin, int count, CodeBlock& out) const = 0;
  virtual void read_row(int64_t row, float* out) const = 0;
  /// As people call it: "GPTQ int4".
  virtual std::string_view format_name() const = 0;
  virtual size_t row_bytes() const = 0;
};

/// Where a matrix comes from: a list of rows, each a pointer into a mapped checkpoint. Fusing q/k/v,
/// stitching shards and undoing GGUF's q/k permutation are nothing but lists of rows. Not owned; must outlive
/// the pack call.
struct WeightSource {
  struct Row {
    const void* data = nullptr;
    DType dtype = DType::kF32;
    const StoredMatrix* matrix = nullptr;  // set: row `index` of it, instead of `data`
    int64_t index = 0;

    bool is_plain(DType type) const { return matrix == nullptr && dtype == type; }
    CodeFormat codes() const;  // bits == 0 for plain floats
    std::string_view format_name() const;
    size_t bytes(int64_t width) const;

    /// Codes from column `begin` of `width` on, where codes().group is 32: how many were read.
    int read_codes(int64_t begin, int64_t width, CodeBlock& out) const;
    void read(int64_t width, float* out) const;
  };
  int64_t cols = 0;  // K, the input width; a multiple of the block size of every row's dtype
  std::vector<Row> rows;
};

/// A matrix of floats in memory.
WeightSource rows_of(ConstMat matrix);

/// The narrowest format that costs no row precision worth mentioning beside what its codes already lost: q4
/// for codes of 4 bits in groups of 32 and for any of 2 or 3 bits, q8 for the other codes, bf16 for bf16, f32
/// otherwise. Codes that fit it, in groups of 32, are kept as they are.
WeightFormat native_format(const WeightSource& source);

/// A packed matrix w[N,K]. Immutable; shared freely between threads.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual WeightFormat format() const = 0;
  virtual int64_t rows() const = 0;  // N
  virtual int64_t cols() const = 0;  // K
  virtual size_t bytes() const = 0;  // resident

  /// out[K] = row `row` as floats. Any thread; slow, for what is done once (DoRA's norms).
  virtual void read_row(int64_t row, float* out) const = 0;
};

/// One LoRA pair on a row range of a (fused) linear: y[:, n_begin : n_begin+n_count] += scale * (x·Aᵀ)·Bᵀ.
struct LoraPairSource {
  int64_t n_begin = 0;
  int64_t n_count = 0;
  int64_t rank = 0;
  float scale = 1.0f;
  const void* a = nullptr;  // [rank, K] row-major in `dtype` (PEFT's lora_A.weight)
  const void* b = nullptr;  // [n_count, rank] row-major in `dtype` (PEFT's lora_B.weight)
  DType dtype = DType::kF32;
};

/// All LoRA pairs of one adapter on one linear (q, k, v share the fused qkv linear).
struct LoraSource {
  int64_t k = 0;  // input width of the linear
  int64_t n = 0;  // output width of the (fused) linear
  std::vector<LoraPairSource> pairs;
};

/// Packed LoRA pairs of one adapter on one linear. Immutable; shared freely between threads.
class LoraWeight {
 public:
  virtual ~LoraWeight() = default;
  virtual int64_t total_rank() const = 0;  // sum over the pairs
  virtual size_t bytes() const = 0;
};

/// Keys and values of all layers in pages of kKvPageSize tokens. The layout inside is the backend's business.
/// A page belongs to one sequence position range; pages of one sequence need not be adjacent.
inline constexpr int kKvPageSize = 16;

struct KvCacheShape {
  int layers = 0;
  int pages = 0;
  int kv_heads = 0;
  int head_dim = 0;
  DType dtype = DType::kBf16;  // kF32, kBf16, or kI8 with a scale per token and kv head
};

/// Bytes that one token's keys and values take in all layers, but for padding that a backend may add.
size_t kv_token_bytes(DType dtype, int layers, int kv_heads, int head_dim);

/// The products of a longer int8 head would not fit 32 bits.
inline constexpr int kMaxInt8HeadDim = 512;

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual const KvCacheShape& shape() const = 0;
  virtual size_t bytes() const = 0;
};

}  // namespace polylora
