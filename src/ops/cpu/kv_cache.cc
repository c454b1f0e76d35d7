#include "ops/cpu/kv_cache.h"

#include <cstring>

#include "base/dtype.h"
#include "ops/cpu/kernels.h"

namespace polylora::cpu {

static_assert(kPageTokens == kKvPageSize);

CpuKvCache::CpuKvCache(const KvCacheShape& shape)
    : shape_(shape),
      padded_dim_((shape.head_dim + kLanes - 1) / kLanes * kLanes),
      value_offset_(static_cast<size_t>(padded_dim_) * kPageTokens *
                    static_cast<size_t>(dtype_block_bytes(shape.dtype))) {
  buffer_ = HugeBuffer(page_stride() * static_cast<size_t>(shape.pages) * static_cast<size_t>(shape.layers));
}

std::byte* CpuKvCache::head(int layer, int page, int kv_head) const {
  const size_t page_index =
      static_cast<size_t>(layer) * static_cast<size_t>(shape_.pages) + static_cast<size_t>(page);
  return buffer_.data() + page_index * page_stride() + static_cast<size_t>(kv_head) * 2 * value_offset_;
}

void CpuKvCache::clear(int layer, int page, int kv_head) {
  std::memset(head(layer, page, kv_head), 0, 2 * value_offset_);
}

void CpuKvCache::write(int layer, int page, int kv_head, int token, const float* key, const float* value) {
  std::byte* keys = head(layer, page, kv_head);
  std::byte* values = keys + value_offset_;
  if (shape_.dtype == DType::kF32) {
    for (int64_t d = 0; d < shape_.head_dim; ++d)
      std::memcpy(keys + (d * kPageTokens + token) * 4, key + d, 4);
    std::memcpy(values + token * padded_dim_ * 4, value, static_cast<size_t>(shape_.head_dim) * 4);
    return;
  }
  auto* key_pairs = reinterpret_cast<uint16_t*>(keys) + 2 * token;
  auto* value_pairs = reinterpret_cast<uint16_t*>(values) + token / 2 * 2 * padded_dim_ + token % 2;
  for (int64_t d = 0; d < shape_.head_dim; ++d) {
    key_pairs[d / 2 * 2 * kPageTokens + d % 2] = f32_to_bf16(key[d]);
    value_pairs[2 * d] = f32_to_bf16(value[d]);
  }
}

}  // namespace polylora::cpu
