#include "cli/work_folder.h"

#include <stdlib.h>

#include <system_error>

#include "base/error.h"

namespace polylora {

namespace fs = std::filesystem;

WorkFolder::WorkFolder(const std::string& name) : path_(name), temporary_(name.empty()) {
  std::error_code failed;
  if (!temporary_) {
    fs::create_directories(path_, failed);
    if (failed) fail(ErrorCode::kIo, "cannot create {}: {}", path_.string(), failed.message());
    path_ = fs::absolute(path_);
    return;
  }
  std::string pattern = (fs::temp_directory_path() / "polylora-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr)
    fail(ErrorCode::kIo, "cannot create a temporary folder {}", pattern);
  path_ = pattern;
}

WorkFolder::~WorkFolder() {
  std::error_code ignored;
  if (temporary_) fs::remove_all(path_, ignored);
}

}  // namespace polylora
