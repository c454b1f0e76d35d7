#include <optional>
#include <string_view>

#include "base/error.h"
#include "io/adapter_formats.h"

namespace polylora {
namespace {

struct MlxKey {
  std::string_view module_path;
  AdapterRole role = AdapterRole::kLoraA;
};

/// Modules are those of the HF model; mlx-lm gives the two matrices of an embedding the names of a linear's.
std::optional<MlxKey> parse_mlx_key(std::string_view key) {
  const size_t dot = key.rfind('.');
  if (dot == std::string_view::npos || dot == 0) return std::nullopt;
  const std::string_view path = key.substr(0, dot), name = key.substr(dot + 1);
  const bool embedding = path.ends_with("embed_tokens");
  if (name == "lora_a") return MlxKey{path, embedding ? AdapterRole::kEmbeddingA : AdapterRole::kLoraA};
  if (name == "lora_b") return MlxKey{path, embedding ? AdapterRole::kEmbeddingB : AdapterRole::kLoraB};
  if (name == "m") return MlxKey{path, AdapterRole::kMagnitude};
  return std::nullopt;
}

}  // namespace

AdapterSource open_mlx_folder(const std::filesystem::path& folder) {
  AdapterSource source = open_adapter_folder(folder, "adapters.safetensors");
  source.config = parse_mlx_config(source.config_text, source.config_path.string());
  const std::string where = source.file().path().string();
  for (const auto& [key, tensor] : source.safetensors->tensors()) {
    const auto parsed = parse_mlx_key(key);
    if (!parsed) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} is of no kind that mlx-lm writes (lora_a, lora_b, m)",
           where, key);
    }
    const bool matrix = parsed->role != AdapterRole::kMagnitude;
    if (tensor.shape.size() != (matrix ? 2 : 1)) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} has {} dimensions; only {} can be read", where, key,
           tensor.shape.size(), matrix ? 2 : 1);
    }
    source.parts.push_back({.key = key,
                            .module_path = std::string(parsed->module_path),
                            .role = parsed->role,
                            .tensor = matrix ? stored_transposed(tensor) : stored_rows(tensor)});
  }
  return source;
}

}  // namespace polylora
