// The files of an adapter, of whatever kind, seen PEFT's way: a configuration, and tensors by module and
// role. What differs between formats and spellings ends here; serving (io/adapter_file.h) and merging
// (io/peft_adapter.h) both start from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/adapter_config.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "io/stored_tensor.h"

namespace polylora {

/// What a tensor is to its module. Shapes are PEFT's: R rank, K/N input/output width, V vocabulary, D width
/// of the embedding.
enum class AdapterRole : uint8_t {
  kLoraA,       // [R,K]
  kLoraB,       // [N,R]
  kLoraBias,    // [N], of B (lora_bias)
  kEmbeddingA,  // [R,V]
  kEmbeddingB,  // [D,R]
  kMagnitude,   // [N], DoRA's
  kWeight,      // instead of the base's: modules_to_save, or saved with a trained embedding
  kBias,        // instead of the base's: bias "all" or "lora_only", modules_to_save
};

/// PEFT's word for it: "lora_A", …
std::string_view adapter_role_name(AdapterRole role);

/// One tensor of an adapter.
struct AdapterPart {
  std::string key;          // the file's own name of it, for messages
  std::string module_path;  // as PEFT names the module: "model.layers.3.self_attn.q_proj", "lm_head"
  AdapterRole role = AdapterRole::kLoraA;
  StoredTensor tensor;
};

/// A key of the safetensors file's metadata, which PEFT and others pass over: the base_fingerprint() of the
/// model that the adapter was trained on.
inline constexpr const char* kBaseFingerprintKey = "base_fingerprint";

struct AdapterSource {
  std::filesystem::path path;         // what was opened
  std::filesystem::path config_path;  // for messages
  std::string config_text;            // empty when it is in the tensors' file
  AdapterConfig config;
  std::string base_fingerprint;    // of the model it was trained on; empty: not told
  std::vector<AdapterPart> parts;  // in the order of their keys; no two of one module and role

  std::unique_ptr<SafetensorsFile> safetensors;  // holds the tensors, or
  std::unique_ptr<GgufFile> gguf;

  /// The file that holds the tensors.
  const MappedFile& file() const { return gguf ? gguf->file() : safetensors->file(); }
  /// Of everything that defines the adapter. Reads the whole file.
  uint64_t content_hash() const;
};

/// Opens a folder of PEFT's or mlx-lm's, or a GGUF file of llama.cpp's (io/adapter_formats.h says what they
/// hold). Reads the configuration and the tensors' header only. `head_dim` is the base model's, 0 when
/// unknown: what undoes the order of q and k in a GGUF file. Throws kNotFound when there is no adapter, what
/// parse_adapter_config throws, kDataCorrupt and kUnsupported naming file and tensor for what cannot be read.
AdapterSource open_adapter(const std::filesystem::path& path, int64_t head_dim);

/// The file of tensors in an adapter's folder; empty when there is none that is read.
std::filesystem::path adapter_weights_path(const std::filesystem::path& folder);

}  // namespace polylora
