// KV pages in the layouts that kernels.h describes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arena.h"
#include "ops/backend.h"
#include "ops/cpu/kernels.h"
#include "ops/weight.h"

namespace polylora::cpu {

class CpuKvCache final : public KvCache {
 public:
  /// `kernels` must outlive the cache.
  CpuKvCache(const KvCacheShape& shape, const Kernels& kernels);

  const KvCacheShape& shape() const override { return shape_; }
  size_t bytes() const override { return buffer_.size(); }
  const KvKernels& kernels() const { return kernels_; }

  /// Bytes from a page's keys to its values; a (page, head) is twice that.
  size_t value_offset() const { return value_offset_; }
  size_t head_stride() const { return 2 * value_offset_; }
  size_t page_stride() const { return head_stride() * static_cast<size_t>(shape_.kv_heads); }
  std::byte* head(int layer, int page, int kv_head) const;

  /// Stores one kv head of the span's rows of k and v, clearing pages that begin with them. Heads and
  /// sequences may be written by different threads.
  void write(int layer, int kv_head, ConstMat k, ConstMat v, const SequenceSpan& span);

 private:
  KvCacheShape shape_;
  const KvKernels& kernels_;
  size_t value_offset_;
  HugeBuffer buffer_;
};

}  // namespace polylora::cpu
