#include "io/checkpoint.h"

#include "base/error.h"
#include "io/gguf_checkpoint.h"
#include "io/hf_checkpoint.h"

namespace polylora {

std::unique_ptr<Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return open_hf_checkpoint(path);
  if (!std::filesystem::exists(path)) {
    fail(ErrorCode::kNotFound, "no model at {}: give a Hugging Face model folder or a .gguf file",
         path.string());
  }
  return open_gguf_checkpoint(path);
}

}  // namespace polylora
