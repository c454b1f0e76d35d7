// GGUF model files seen the Hugging Face way.
#pragma once

#include <filesystem>
#include <memory>

#include "io/checkpoint.h"

namespace polylora {

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file);

}  // namespace polylora
