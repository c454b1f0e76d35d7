#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

[[noreturn]] void fail_errno(const char* action, const std::filesystem::path& path) {
  const int error = errno;
  const ErrorCode code = error == ENOENT || error == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo;
  fail(code, "cannot {} {}: {}", action, path.string(), std::strerror(error));
}

class FileDescriptor {
 public:
  FileDescriptor(const std::filesystem::path& path, int flags, const char* action)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail_errno(action, path);
  }
  ~FileDescriptor() { ::close(fd_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

constexpr off_t kWriteback = off_t{1} << 20;

size_t regular_file_size(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) fail_errno("stat", path);
  if (!S_ISREG(info.st_mode)) fail(ErrorCode::kIo, "cannot read {}: not a regular file", path.string());
  return static_cast<size_t>(info.st_size);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const FileDescriptor file(path, O_RDONLY, "open");
  size_ = regular_file_size(file, path);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (map == MAP_FAILED) fail_errno("map", path);
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::drop_pages() const {
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const FileDescriptor file(path, O_RDONLY, "open");
  size_t size = regular_file_size(file, path);
  if (size > max_bytes) {
    fail(ErrorCode::kResourceExhausted, "{} has {} bytes; at most {} are read", path.string(), size,
         max_bytes);
  }
  std::string text(size, '\0');
  for (size_t done = 0; done < size;) {
    const ssize_t got = ::read(file.get(), text.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("read", path);
    if (got == 0) text.resize(size = done);  // the file shrank meanwhile
    done += static_cast<size_t>(got);
  }
  return text;
}

AtomicFile::AtomicFile(const std::filesystem::path& target) : target_(target), temporary_(target) {
  static std::atomic<int> serial = 0;  // two writers of one target in one process must not share a temporary
  temporary_ += fmt::format(".tmp-{}-{}", ::getpid(), serial++);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno("create", target_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("write", target_);
    bytes.remove_prefix(static_cast<size_t>(put));
  }
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  const auto begin = static_cast<off_t>(offset), size = static_cast<off_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("write", target_);
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  // So that commit() has little left to wait for. A hint: where it does nothing, nothing is lost.
  if (size >= kWriteback) ::sync_file_range(fd_, begin, size, SYNC_FILE_RANGE_WRITE);
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail_errno("sync", target_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_errno("rename onto", target_);
  ::close(std::exchange(fd_, -1));
}

void write_file_atomic(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace polylora
