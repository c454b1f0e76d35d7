// Hugging Face model folders: config.json + safetensors, single or sharded.
#pragma once

#include <filesystem>
#include <memory>

#include "io/checkpoint.h"

namespace polylora {

/// The text files of any folder that has them.
TextAssets read_hf_text_assets(const std::filesystem::path& folder);

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder);

}  // namespace polylora
