// Files: read-only memory maps, whole-file reads, atomic writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace polylora {

/// A whole file mapped read-only for the object's lifetime. Movable, not copyable. Reading is thread-safe.
/// Truncating the file under a live map raises SIGBUS, as with any mmap.
class MappedFile {
 public:
  /// Throws kNotFound / kIo naming the path. An empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  /// Tells the kernel that the pages are no longer needed (they are re-read on the next access).
  void drop_pages() const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// The whole file as text. Throws kNotFound / kIo naming the path, kResourceExhausted above `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

/// A file written beside its target; commit() syncs it and renames it over: readers see the old or the new
/// file, never half. Destroyed uncommitted, it leaves nothing behind. Every failure throws kIo naming the
/// target.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  /// Writes at a place of its own, whatever write() did; any number of threads at once.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

/// One AtomicFile, whole.
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

}  // namespace polylora
