#include "hub/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxRedirects = 5;
constexpr int kAttempts = 5;      // without a byte of progress
constexpr int kMostBreaks = 100;  // of one download
constexpr std::chrono::milliseconds kFirstPause{250};

/// A file that grows.
class GrowingFile {
 public:
  explicit GrowingFile(const fs::path& path)
      : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail_io("open");
    size_ = static_cast<uint64_t>(::lseek(fd_, 0, SEEK_END));
  }
  ~GrowingFile() { ::close(fd_); }
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  uint64_t size() const { return size_; }

  void clear() {
    if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) < 0) fail_io("empty");
    size_ = 0;
  }
  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) fail_io("write to");
      bytes.remove_prefix(static_cast<size_t>(put));
      size_ += static_cast<uint64_t>(put);
    }
  }
  void sync() const {
    if (::fsync(fd_) != 0) fail_io("write to");
  }

 private:
  [[noreturn]] void fail_io(const char* what) const {
    fail(ErrorCode::kIo, "cannot {} {}: {}", what, path_.string(), std::strerror(errno));
  }
  const fs::path path_;
  int fd_;
  uint64_t size_ = 0;
};

/// What may go away by itself is kUnavailable.
[[noreturn]] void fail_status(const Download& download, int status) {
  const bool passing = status >= 500 || status == 408 || status == 416 || status == 429;
  fail(passing ? ErrorCode::kUnavailable : ErrorCode::kNotFound, "{}: {} answers HTTP {}", download.name,
       origin_of(download.url), status);
}

/// One try: asks for what is missing.
void append_missing(const Download& download, GrowingFile& file, const ProgressFn& progress) {
  WebRequest request{.url = download.url};
  if (file.size() > 0) request.headers.push_back(fmt::format("Range: bytes={}-", file.size()));
  bool first = true;
  const auto take = [&](const WebAnswer& head, std::string_view piece) {
    if (first && head.status != 206) file.clear();  // all of it again
    first = false;
    if (piece.size() > download.size - file.size())
      fail(ErrorCode::kDataCorrupt, "{}: {} sends more than the {} bytes that it should have", download.name,
           origin_of(download.url), download.size);
    file.append(piece);
    if (progress)
      progress("downloading " + download.name,
               static_cast<double>(file.size()) / static_cast<double>(download.size));
  };
  const WebAnswer answer = fetch_following(std::move(request), download.secret_headers, take);
  if (answer.status == 416) file.clear();
  if (!answer.is_success()) fail_status(download, answer.status);
}

}  // namespace

WebAnswer fetch_following(WebRequest request, const std::vector<std::string>& secret_headers,
                          const WebSink& sink) {
  const std::string home = origin_of(request.url);
  const std::vector<std::string> open_headers = request.headers;
  for (int i = 0; i <= kMaxRedirects; ++i) {
    const std::string origin = origin_of(request.url);
    if (home.starts_with("https:") && !origin.starts_with("https:"))
      fail(ErrorCode::kUnavailable, "{} redirects to {}, which is not encrypted", home, origin);
    request.headers = open_headers;
    if (origin == home)
      request.headers.insert(request.headers.end(), secret_headers.begin(), secret_headers.end());
    WebAnswer answer = fetch_once(request, sink);
    const std::string_view location = answer.header("location");
    if (!answer.is_redirect() || location.empty()) return answer;
    request.url = resolve_location(request.url, std::string(location));
  }
  fail(ErrorCode::kUnavailable, "{} redirects more than {} times", home, kMaxRedirects);
}

void download_to(const Download& download, const fs::path& path, const ProgressFn& progress) {
  GrowingFile file(path);
  if (file.size() > download.size) file.clear();
  auto pause = kFirstPause;
  int idle = 0;  // tries since the last byte
  for (int breaks = 0; file.size() < download.size; ++breaks) {
    const uint64_t before = file.size();
    try {
      append_missing(download, file, progress);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable || idle + 1 >= kAttempts || breaks >= kMostBreaks) throw;
    }
    if (file.size() == download.size) break;
    idle = file.size() > before ? 0 : idle + 1;
    if (idle >= kAttempts || breaks >= kMostBreaks)
      fail(ErrorCode::kUnavailable,
           "{}: the connection breaks again and again, at {} of {} bytes; try again later", download.name,
           file.size(), download.size);
    if (idle <= 1) pause = kFirstPause;
    std::this_thread::sleep_for(pause);
    pause *= 2;
  }
  file.sync();
}

}  // namespace polylora
