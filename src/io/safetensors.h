// The safetensors format (https://github.com/huggingface/safetensors#format): u64 header length, JSON header,
// data.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"

namespace polylora {

/// A tensor inside a mapped file. `data` points into the map.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

/// A mapped, fully validated file: offsets in range, no overlap, sizes equal shape × dtype. Throws
/// kDataCorrupt naming file and tensor. Opening reads only the header's pages.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Writes tensors in name order, 8-byte aligned header, atomically (io/safetensors_writer.cc).
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace polylora
