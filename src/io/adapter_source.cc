#include "io/adapter_source.h"

#include <map>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "io/adapter_formats.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{256} << 10;  // real ones have a few KiB

constexpr const char* kPeftWeights = "adapter_model.safetensors";
constexpr const char* kMlxWeights = "adapters.safetensors";

void check_dtypes(const AdapterSource& source) {
  for (const AdapterPart& part : source.parts) {
    const DType dtype = part.tensor.dtype();
    if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16) continue;
    fail(ErrorCode::kUnsupported, "{}: {}: dtype {} is not supported in adapters; use F32, F16 or BF16",
         source.file().path().string(), part.key, dtype_name(dtype));
  }
}

/// Folders of older programs.
void refuse_unread_weights(const fs::path& folder) {
  if (path_exists(folder / "adapter_model.bin")) {
    fail(ErrorCode::kUnsupported,
         "{}: adapter_model.bin is pickled and not read; convert it there with: python3 -c \"import torch; "
         "from "
         "safetensors.torch import save_file; save_file(torch.load('adapter_model.bin', weights_only=True), "
         "'adapter_model.safetensors')\"",
         folder.string());
  }
  if (path_exists(folder / "adapters.npz")) {
    fail(ErrorCode::kUnsupported,
         "{}: adapters.npz is not read; convert it there with: python3 -c \"import mlx.core as mx; "
         "mx.save_safetensors('adapters.safetensors', mx.load('adapters.npz'))\"",
         folder.string());
  }
}

AdapterSource open_any(const fs::path& path, int64_t head_dim) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return open_gguf_adapter(path, head_dim);
  if (path_exists(path / "adapter_config.json")) {
    if (path_exists(path / kPeftWeights)) return open_peft_folder(path);
    if (path_exists(path / kMlxWeights)) return open_mlx_folder(path);
    refuse_unread_weights(path);
  }
  fail(ErrorCode::kNotFound, "No adapter found for {}", path.string());
}

void refuse_duplicates(const AdapterSource& source) {
  std::map<std::pair<std::string_view, AdapterRole>, const std::string*> seen;
  for (const AdapterPart& part : source.parts) {
    const auto [other, is_new] = seen.try_emplace({part.module_path, part.role}, &part.key);
    if (is_new) continue;
    fail(ErrorCode::kDataCorrupt, "{}: {} of {} is there twice, as {} and {}", source.file().path().string(),
         adapter_role_name(part.role), part.module_path, *other->second, part.key);
  }
}

}  // namespace

std::string_view adapter_role_name(AdapterRole role) {
  switch (role) {
    case AdapterRole::kLoraA:
      return "lora_A";
    case AdapterRole::kLoraB:
      return "lora_B";
    case AdapterRole::kLoraBias:
      return "the bias of lora_B";
    case AdapterRole::kEmbeddingA:
      return "lora_embedding_A";
    case AdapterRole::kEmbeddingB:
      return "lora_embedding_B";
    case AdapterRole::kMagnitude:
      return "lora_magnitude_vector";
    case AdapterRole::kWeight:
      return "weight";
    case AdapterRole::kBias:
      break;
  }
  return "bias";
}

uint64_t AdapterSource::content_hash() const {
  const uint64_t seed = hash_bytes(std::as_bytes(std::span(config_text)));
  return hash_bytes(file().bytes(), seed);
}

fs::path adapter_weights_path(const fs::path& folder) {
  for (const char* name : {kPeftWeights, kMlxWeights}) {
    if (path_exists(folder / name)) return folder / name;
  }
  return {};
}

AdapterSource open_adapter_folder(const fs::path& folder, const char* weights_name) {
  AdapterSource source;
  source.path = folder;
  source.config_path = folder / "adapter_config.json";
  source.config_text = read_text_file(source.config_path, kMaxConfigBytes);
  source.safetensors = std::make_unique<SafetensorsFile>(folder / weights_name);
  return source;
}

StoredTensor stored_rows(const TensorView& tensor) {
  return {.shape = tensor.shape, .stored = tensor};
}

StoredTensor stored_transposed(const TensorView& tensor) {
  return {.shape = {tensor.shape[1], tensor.shape[0]}, .stored = tensor, .layout = StoredLayout::kTransposed};
}

AdapterSource open_adapter(const fs::path& path, int64_t head_dim) {
  AdapterSource source = open_any(path, head_dim);
  check_dtypes(source);
  refuse_duplicates(source);
  return source;
}

}  // namespace polylora
