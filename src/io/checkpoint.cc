#include "io/checkpoint.h"

#include <system_error>

#include "base/error.h"
#include "io/gguf_checkpoint.h"
#include "io/hf_checkpoint.h"
#include "io/json_file.h"

namespace polylora {

std::unique_ptr<Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_hf_checkpoint(path);
  if (!path_exists(path)) {
    fail(ErrorCode::kNotFound, "no model at {}: give a Hugging Face model folder or a .gguf file",
         path.string());
  }
  return open_gguf_checkpoint(path);
}

}  // namespace polylora
