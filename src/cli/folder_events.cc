#include "cli/folder_events.h"

#include <linux/magic.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds kPollInterval{1000};
constexpr milliseconds kQuiet{50};
constexpr int kMostPauses = 20;  // a folder that never becomes quiet is looked at all the same
constexpr uint32_t kChanges = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                              IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

/// What another machine writes to a network file system raises no events here.
bool raises_events(const fs::path& folder) {
  constexpr long kCifs = 0xff534d42, kSmb2 = 0xfe534d42, kFuse = 0x65735546;
  struct statfs info {};
  if (::statfs(folder.c_str(), &info) != 0) return true;  // it just went away; the watch says so
  const auto type = static_cast<long>(info.f_type) & 0xffffffffL;
  const std::array<long, 5> network = {NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, kCifs, kSmb2, kFuse};
  return std::find(network.begin(), network.end(), type) == network.end();
}

fs::path nearest_existing(fs::path folder) {
  std::error_code ignored;
  folder = fs::absolute(folder, ignored);
  while (!fs::is_directory(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  return folder;
}

}  // namespace

FolderEvents::FolderEvents()
    : inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)),
      stop_event_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (stop_event_ < 0) {
    if (inotify_ >= 0) ::close(inotify_);
    fail(ErrorCode::kIo, "cannot make an event: {}", std::strerror(errno));
  }
}

FolderEvents::~FolderEvents() {
  if (inotify_ >= 0) ::close(inotify_);
  ::close(stop_event_);
}

void FolderEvents::watch(const std::vector<fs::path>& folders) {
  polling_ = inotify_ < 0;
  std::set<int> watches;
  for (const fs::path& folder : folders) watch_one(nearest_existing(folder), watches);
  for (const int old : watches_) {
    if (!watches.contains(old)) ::inotify_rm_watch(inotify_, old);  // fails for a folder that is gone
  }
  watches_ = std::move(watches);
}

void FolderEvents::watch_one(const fs::path& folder, std::set<int>& watches) {
  if (inotify_ < 0) return;
  const int watch = ::inotify_add_watch(inotify_, folder.c_str(), kChanges);
  if (watch >= 0) watches.insert(watch);
  if (watch < 0 || !raises_events(folder)) polling_ = true;
}

void FolderEvents::drain() {
  alignas(inotify_event) std::array<char, 4096> buffer;
  while (::read(inotify_, buffer.data(), buffer.size()) > 0) {
  }
}

FolderEvents::Wake FolderEvents::poll(milliseconds timeout) {
  std::array<pollfd, 2> sources = {{{stop_event_, POLLIN, 0}, {inotify_, POLLIN, 0}}};  // -1 is passed over
  const int ready = ::poll(sources.data(), sources.size(), static_cast<int>(timeout.count()));
  if (ready > 0 && sources[0].revents != 0) return Wake::kStopped;
  if (ready > 0 && sources[1].revents != 0) return Wake::kChanged;
  return Wake::kTimeout;
}

FolderEvents::Wake FolderEvents::wait(std::optional<milliseconds> timeout) {
  constexpr milliseconds kForEver{-1};
  // Rounded into poll()'s range; waking early is harmless, not at all is not.
  const milliseconds longest =
      timeout ? std::clamp(*timeout, milliseconds(0), milliseconds(3'600'000)) : kForEver;
  const bool look = polling_ && (!timeout || *timeout > kPollInterval);
  Wake wake = poll(look ? kPollInterval : longest);
  if (wake == Wake::kTimeout && look) return Wake::kChanged;
  for (int pause = 0; wake == Wake::kChanged; ++pause) {
    drain();
    if (pause == kMostPauses) return Wake::kChanged;
    wake = poll(kQuiet);
    if (wake == Wake::kTimeout) return Wake::kChanged;
  }
  return wake;
}

void FolderEvents::stop() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(stop_event_, &one, sizeof one);  // never full
}

}  // namespace polylora
