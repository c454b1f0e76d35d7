// Large aligned memory on huge pages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polylora {

/// Anonymous zeroed memory on a 64-byte boundary, advised MADV_HUGEPAGE. Owns it; movable. Buffers of up to 8
/// MiB are pieces of shared 32 MiB slabs, so that a 100 KiB adapter matrix sits on huge pages too; a
/// piece's memory goes back to the system with it, the slab's addresses with the last one. Safe to construct
/// and destroy on any thread. Huge pages are worth 40-80 % of one thread's read bandwidth.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  explicit HugeBuffer(size_t bytes);  // throws kResourceExhausted when the system refuses
  ~HugeBuffer();
  HugeBuffer(HugeBuffer&& other) noexcept;
  HugeBuffer& operator=(HugeBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  struct Slab;
  static void destroy(Slab* slab);
  void swap(HugeBuffer& other) noexcept;

  static Slab* current_slab_;  // guarded by the mutex in arena.cc

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;     // bytes of an own mapping; 0 for a piece of a slab
  Slab* slab_ = nullptr;  // where this piece lives; null for an own mapping
};

}  // namespace polylora
