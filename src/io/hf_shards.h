// The safetensors files of a Hugging Face model folder: one, or the shards that an index names.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "io/safetensors.h"

namespace polylora {

/// Opens model.safetensors, or every shard of model.safetensors.index.json. There is at least one tensor and
/// none is in two files. Throws kNotFound, kUnsupported (pickled weights), kDataCorrupt with the folder's
/// name.
std::vector<std::unique_ptr<SafetensorsFile>> open_hf_shards(const std::filesystem::path& folder);

}  // namespace polylora
