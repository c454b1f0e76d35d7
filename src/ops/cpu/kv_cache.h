// KV pages in the layouts that kernels.h describes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arena.h"
#include "ops/weight.h"

namespace polylora::cpu {

class CpuKvCache final : public KvCache {
 public:
  explicit CpuKvCache(const KvCacheShape& shape);

  const KvCacheShape& shape() const override { return shape_; }
  size_t bytes() const override { return buffer_.size(); }

  /// Bytes from a page's keys to its values; a (page, head) is twice that.
  size_t value_offset() const { return value_offset_; }
  size_t head_stride() const { return 2 * value_offset_; }
  size_t page_stride() const { return head_stride() * static_cast<size_t>(shape_.kv_heads); }
  std::byte* head(int layer, int page, int kv_head) const;

  void clear(int layer, int page, int kv_head);
  void write(int layer, int page, int kv_head, int token, const float* key, const float* value);

 private:
  KvCacheShape shape_;
  int64_t padded_dim_;
  size_t value_offset_;
  HugeBuffer buffer_;
};

}  // namespace polylora::cpu
