#include "ops/cpu/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace polylora::cpu {
namespace {

static_assert(kPageTokens == kKvPageSize);

KvKind kv_kind(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return KvKind::kF32;
    case DType::kI8:
      return KvKind::kInt8;
    default:
      return KvKind::kBf16;
  }
}

size_t half_page_bytes(const KvCacheShape& shape) {
  const int64_t padded_dim = (shape.head_dim + kLanes - 1) / kLanes * kLanes;
  const size_t scales = shape.dtype == DType::kI8 ? kPageTokens * sizeof(float) : 0;
  return kPageTokens * dtype_row_bytes(shape.dtype, padded_dim) + scales;
}

}  // namespace

CpuKvCache::CpuKvCache(const KvCacheShape& shape, const Kernels& kernels)
    : shape_(shape),
      kernels_(kernels.kv[static_cast<size_t>(kv_kind(shape.dtype))]),
      value_offset_(half_page_bytes(shape)),
      buffer_(page_stride() * static_cast<size_t>(shape.pages) * static_cast<size_t>(shape.layers)) {}

std::byte* CpuKvCache::head(int layer, int page, int kv_head) const {
  const size_t page_index =
      static_cast<size_t>(layer) * static_cast<size_t>(shape_.pages) + static_cast<size_t>(page);
  return buffer_.data() + page_index * page_stride() + static_cast<size_t>(kv_head) * head_stride();
}

void CpuKvCache::write(int layer, int kv_head, ConstMat k, ConstMat v, const SequenceSpan& span) {
  const int64_t column = int64_t{kv_head} * shape_.head_dim;
  for (int row = 0; row < span.row_count;) {
    const int position = span.start_position + row;
    const int first = position % kPageTokens;
    const int tokens = std::min(kPageTokens - first, span.row_count - row);
    std::byte* page = head(layer, span.pages[static_cast<size_t>(position / kPageTokens)], kv_head);
    if (first == 0) std::memset(page, 0, head_stride());
    kernels_.write({
        .key = k.row(span.row_begin + row) + column,
        .key_stride = k.stride,
        .value = v.row(span.row_begin + row) + column,
        .value_stride = v.stride,
        .head_dim = shape_.head_dim,
        .page = page,
        .value_offset = value_offset_,
        .token_begin = first,
        .tokens = tokens,
    });
    row += tokens;
  }
}

}  // namespace polylora::cpu
