// A folder for the fuzzers of what consists of several files.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace polylora {

/// One folder for the whole run, gone at its end.
class FuzzFolder {
 public:
  explicit FuzzFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / fmt::format("{}.{}", name, ::getpid())) {
    std::filesystem::create_directory(path_);
  }
  ~FuzzFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FuzzFolder(const FuzzFolder&) = delete;
  FuzzFolder& operator=(const FuzzFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// Points `name` at `target`, which need not be in the folder.
  void link(const char* name, const std::filesystem::path& target) const {
    std::filesystem::remove(path_ / name);
    std::filesystem::create_symlink(target, path_ / name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace polylora
