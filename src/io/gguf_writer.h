// GGUF version 3 files written piece by piece (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "io/tensor_writer.h"

namespace polylora {

using GgufField = std::variant<bool, uint32_t, float, std::string, std::vector<int32_t>, std::vector<float>,
                               std::vector<std::string>>;
/// In the order in which they are written; keys are distinct.
using GgufMetadata = std::vector<std::pair<std::string, GgufField>>;

/// Data of every tensor begins on a multiple of 32 bytes, in the order of `tensors`. Throws kInternal for a
/// dtype that GGUF does not have.
std::unique_ptr<TensorWriter> open_gguf_writer(const std::filesystem::path& path,
                                               const GgufMetadata& metadata,
                                               const std::vector<TensorInfo>& tensors);

}  // namespace polylora
