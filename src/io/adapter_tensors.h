// What serving and merging both want of an adapter's weights.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "io/safetensors.h"

namespace polylora {

/// The safetensors file of an adapter folder; empty when there is none. Throws kUnsupported when there is a
/// pickled one only.
std::optional<std::filesystem::path> find_adapter_weights(const std::filesystem::path& folder);

/// Throws kUnsupported for anything but F32, F16 and BF16.
void check_adapter_dtype(const TensorView& tensor, const std::string& where);

/// Throws kDataCorrupt when the tensor, which `where` names, holds NaN or infinity.
void check_finite(const TensorView& tensor, const std::string& where);

}  // namespace polylora
