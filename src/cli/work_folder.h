// A folder for files of a run.
#pragma once

#include <filesystem>
#include <string>

namespace polylora {

class WorkFolder {
 public:
  /// The named folder, created if absent and kept; with an empty name a new one for temporary files, removed
  /// with this object. Throws kIo.
  explicit WorkFolder(const std::string& name);
  ~WorkFolder();
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  bool temporary_;
};

}  // namespace polylora
