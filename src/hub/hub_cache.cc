#include "hub/hub_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRefBytes = 256;

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    fail(ErrorCode::kIo, "cannot make {} in the hub's cache: {}; HF_HUB_CACHE names another place",
         path.string(), error.message());
}

}  // namespace

bool is_commit(const std::string& text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isxdigit(c) != 0 && std::isupper(c) == 0;
         });
}

HubCache::HubCache(const fs::path& root, const std::string& repo) {
  std::string name = "models--" + repo;
  name.replace(name.find('/'), 1, "--");
  folder_ = root / name;
  locks_ = root / ".locks" / name;
}

fs::path HubCache::incomplete(const std::string& etag) const {
  make_folder(folder_ / "blobs");
  return folder_ / "blobs" / (etag + ".incomplete");
}

std::optional<std::string> HubCache::find_commit(const std::string& revision) const {
  std::error_code ignored;
  if (is_commit(revision))
    return fs::is_directory(snapshot(revision), ignored) ? std::optional(revision) : std::nullopt;
  const fs::path ref = folder_ / "refs" / revision;
  if (!fs::is_regular_file(ref, ignored)) return std::nullopt;
  std::string commit = read_text_file(ref, kMaxRefBytes);
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) commit.pop_back();
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

void HubCache::remember_commit(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const fs::path ref = folder_ / "refs" / revision;
  make_folder(ref.parent_path());
  write_file_atomic(ref, commit);
}

void HubCache::link(const std::string& commit, const std::string& file, const std::string& etag) const {
  make_folder(snapshot(commit));
  const fs::path at = snapshot(commit) / file, target = fs::path("../../blobs") / etag;
  std::error_code error;
  if (fs::is_symlink(at, error) && fs::read_symlink(at, error) == target) return;
  const fs::path beside = at.string() + fmt::format(".{}.link", ::getpid());
  fs::remove(beside, error);
  fs::create_symlink(target, beside, error);
  if (!error) fs::rename(beside, at, error);  // replaces whatever has the name
  if (error) fail(ErrorCode::kIo, "cannot link {}: {}", at.string(), error.message());
}

HubCache::Lock::Lock(const HubCache& cache, const std::string& etag) {
  make_folder(cache.locks_);
  const fs::path path = cache.locks_ / (etag + ".lock");
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  while (fd_ >= 0 && ::flock(fd_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    ::close(fd_);
    fd_ = -1;
  }
  if (fd_ < 0) fail(ErrorCode::kIo, "cannot lock {}: {}", path.string(), std::strerror(errno));
}

HubCache::Lock::~Lock() {
  ::close(fd_);  // and with it the lock
}

}  // namespace polylora
