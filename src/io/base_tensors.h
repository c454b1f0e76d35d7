// Every tensor of a base model by its HF name, whatever its architecture: what is merged into and exported.
// Unlike Checkpoint this asks nothing of an HF folder's config.json but that it is JSON.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/safetensors.h"

namespace polylora {

/// Rows of stored values inside the mapped file. A 1-D tensor or a scalar is one row; more than two
/// dimensions are rows of the innermost one.
struct BaseTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  DType dtype = DType::kF32;   // as stored; GGUF block formats included
  int64_t rows = 1;
  int64_t cols = 1;
  float offset = 0.0f;  // HF's values are the stored ones plus this: Gemma's norms in GGUF are gains

  const std::byte* row(int64_t r) const {
    return scattered.empty() ? data + static_cast<size_t>(r) * dtype_row_bytes(dtype, cols)
                             : static_cast<const std::byte*>(scattered[static_cast<size_t>(r)].data);
  }

  const std::byte* data = nullptr;           // rows one after another, or
  std::vector<WeightSource::Row> scattered;  // GGUF: rows in HF's order
};

class BaseTensors {
 public:
  /// An HF folder or a .gguf file. Throws what Checkpoint::open throws for GGUF; kUnsupported for a quantised
  /// HF folder (GPTQ, AWQ, bitsandbytes, …).
  explicit BaseTensors(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  /// Only for a GGUF file.
  const Checkpoint& gguf() const { return *gguf_; }

  /// config.json in its own order; synthesised for GGUF.
  const nlohmann::ordered_json& config() const { return config_; }
  /// In the order in which they lie in the files.
  const std::vector<BaseTensor>& tensors() const { return tensors_; }
  const BaseTensor* find(const std::string& name) const;  // null: there is none
  /// lm_head is the embedding: config.json says so, or there is none.
  bool is_tied() const;

  /// Size of an attention head as config.json says; 0 when it does not.
  int64_t head_dim() const;

  void drop_pages() const;

 private:
  void open_folder();
  void open_gguf();

  std::filesystem::path path_;
  nlohmann::ordered_json config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unique_ptr<Checkpoint> gguf_;
  std::vector<BaseTensor> tensors_;
  std::map<std::string, size_t> by_name_;  // indexes tensors_
};

}  // namespace polylora
