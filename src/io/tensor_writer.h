// Files of tensors that are written while they are computed: names, types and shapes first, data later.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"

namespace polylora {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first

  int64_t elements() const;
  uint64_t bytes() const;
};

/// An AtomicFile with a header and a place for every tensor; which header and which places is the format's
/// business (io/safetensors_writer.h, io/gguf_writer.h). Destroyed uncommitted, it leaves nothing behind.
class TensorWriter {
 public:
  /// `offsets[i]`: where in the file the data of tensors[i] begins.
  TensorWriter(const std::filesystem::path& path, std::string_view header,
               const std::vector<TensorInfo>& tensors, std::vector<uint64_t> offsets);

  /// Bytes [offset, offset + size) of the tensor's data, each written once. Any thread. Throws kIo.
  void write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes);

  /// All data must have been written. Syncs and renames.
  void commit();

 private:
  AtomicFile file_;
  std::vector<uint64_t> offsets_;
  uint64_t expected_ = 0;
  std::atomic<uint64_t> written_ = 0;
};

}  // namespace polylora
