// Large aligned memory on huge pages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polylora {

/// Anonymous zeroed memory, 2 MiB aligned and advised MADV_HUGEPAGE when it is at least that large, 64-byte
/// aligned otherwise. Owns it; movable. Huge pages are worth 40-80 % of one thread's read bandwidth.
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
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;
};

}  // namespace polylora
