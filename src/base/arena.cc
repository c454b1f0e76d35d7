#include "base/arena.h"

#include <sys/mman.h>

#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{32} << 20;
constexpr size_t kLargestSlabPiece = size_t{8} << 20;  // larger buffers get a mapping of their own
constexpr size_t kAlignment = 64;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// `bytes` (a multiple of 2 MiB) of zeroed memory at a 2 MiB boundary, advised onto huge pages.
std::byte* map_huge(size_t bytes) {
  const size_t reserved = bytes + kHugePage;
  void* raw =
      mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED)
    fail(ErrorCode::kResourceExhausted, "the system refused {} MiB of memory", bytes >> 20);
  auto* begin = static_cast<std::byte*>(raw);
  const size_t lead =
      round_up(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  if (lead > 0) munmap(begin, lead);
  if (lead < kHugePage) munmap(begin + lead + bytes, kHugePage - lead);
  madvise(begin + lead, bytes,
          MADV_HUGEPAGE);  // only advice: a kernel without huge pages is slower, not wrong
  return begin + lead;
}

/// The memory of a piece, but for the pages that it shares with its neighbours, goes back to the system.
void give_back(std::byte* data, size_t size) {
  const uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(data), kPage);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

/// Hands out pieces front to back and never reuses one, so that every piece is still zero. A piece's memory
/// goes with it, since adapters that share a slab may live long after one another; the mapping goes with the
/// last.
struct HugeBuffer::Slab {
  std::byte* data = nullptr;
  size_t used = 0;
  size_t live_pieces = 0;
};

namespace {
std::mutex slab_mutex;
}  // namespace

HugeBuffer::Slab* HugeBuffer::current_slab_ = nullptr;

HugeBuffer::HugeBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  if (bytes > kLargestSlabPiece) {
    mapped_ = round_up(bytes, kHugePage);
    data_ = map_huge(mapped_);
    return;
  }
  const size_t piece = round_up(bytes, kAlignment);
  const std::lock_guard lock(slab_mutex);
  if (current_slab_ == nullptr || current_slab_->used + piece > kSlabBytes) {
    auto fresh = std::make_unique<Slab>();
    fresh->data = map_huge(kSlabBytes);
    Slab* full = std::exchange(current_slab_, fresh.release());
    if (full != nullptr && full->live_pieces == 0) destroy(full);
  }
  slab_ = current_slab_;
  data_ = slab_->data + slab_->used;
  slab_->used += piece;
  ++slab_->live_pieces;
}

void HugeBuffer::destroy(Slab* slab) {
  munmap(slab->data, kSlabBytes);
  delete slab;
}

HugeBuffer::~HugeBuffer() {
  if (slab_ == nullptr) {
    if (data_ != nullptr) munmap(data_, mapped_);
    return;
  }
  give_back(data_, size_);
  const std::lock_guard lock(slab_mutex);
  if (--slab_->live_pieces > 0) return;
  if (slab_ == current_slab_) current_slab_ = nullptr;
  destroy(slab_);
}

HugeBuffer::HugeBuffer(HugeBuffer&& other) noexcept {
  swap(other);
}

HugeBuffer& HugeBuffer::operator=(HugeBuffer&& other) noexcept {
  HugeBuffer taken(std::move(other));
  swap(taken);
  return *this;
}

void HugeBuffer::swap(HugeBuffer& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  std::swap(slab_, other.slab_);
}

}  // namespace polylora
