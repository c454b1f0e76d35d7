// The GGUF container, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
// magic, version, counts, key-value metadata, tensor infos, aligned tensor data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "io/safetensors.h"

namespace polylora {

/// Integers are widened to int64, floats to double; arrays are homogeneous.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

/// A mapped, validated file. Every length and offset is checked against the file; kDataCorrupt / kUnsupported
/// (a tensor type without a reader, named) otherwise. Shapes are outermost first, as in safetensors.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const MappedFile& file() const { return file_; }

  /// Null when the key is absent; throws kDataCorrupt when it has another type.
  template <typename T>
  const T* find(const std::string& key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return nullptr;
    if (const T* value = std::get_if<T>(&found->second)) return value;
    fail_type(key);
  }

  /// A required value; throws kDataCorrupt naming the key.
  template <typename T>
  const T& get(const std::string& key) const {
    if (const T* value = find<T>(key)) return *value;
    fail_missing(key);
  }

 private:
  [[noreturn]] void fail_type(const std::string& key) const;
  [[noreturn]] void fail_missing(const std::string& key) const;

  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace polylora
