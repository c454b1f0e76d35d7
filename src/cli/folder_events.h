// Waits for changes in folders without looking at them: inotify, or a look a second where that cannot work.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <vector>

namespace polylora {

class FolderEvents {
 public:
  FolderEvents();
  ~FolderEvents();
  FolderEvents(const FolderEvents&) = delete;
  FolderEvents& operator=(const FolderEvents&) = delete;

  /// From now on, wait() sees changes of the entries of these folders (not of folders inside them), and no
  /// others. For one that does not exist its nearest existing parent is watched, so that it is seen to
  /// appear.
  void watch(const std::vector<std::filesystem::path>& folders);

  enum class Wake { kChanged, kTimeout, kStopped };
  /// Sleeps until something changed and then was quiet for a moment (a burst of changes wakes once), until
  /// the timeout, or until stop(). A look that is due counts as kChanged.
  Wake wait(std::optional<std::chrono::milliseconds> timeout);

  /// Ends this and every later wait(). Any thread.
  void stop();

  bool is_polling() const { return polling_; }

 private:
  void watch_one(const std::filesystem::path& folder, std::set<int>& watches);
  void drain();
  Wake poll(std::chrono::milliseconds timeout);

  int inotify_ = -1;
  int stop_event_ = -1;
  bool polling_ = false;
  std::set<int> watches_;
};

}  // namespace polylora
