// Safetensors files written piece by piece. Small ones, whole: write_safetensors in io/safetensors.h.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/tensor_writer.h"

namespace polylora {

/// Data lies in the order of `tensors`, without gaps, from a multiple of 8 bytes on.
std::unique_ptr<TensorWriter> open_safetensors_writer(const std::filesystem::path& path,
                                                      const std::vector<TensorInfo>& tensors,
                                                      const std::map<std::string, std::string>& metadata = {
                                                          {"format", "pt"}});

}  // namespace polylora
