#include "io/adapter_source.h"

#include <map>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "io/adapter_keys.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{256} << 10;  // real ones have a few KiB

void check_adapter_dtype(const TensorView& tensor, const std::string& where) {
  if (tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBf16) return;
  fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported in adapters; use F32, F16 or BF16", where,
       dtype_name(tensor.dtype));
}

void refuse_pickled(const fs::path& folder) {
  if (!path_exists(folder / "adapter_model.bin")) return;
  fail(ErrorCode::kUnsupported,
       "{}: adapter_model.bin is pickled and not read; convert it to adapter_model.safetensors",
       folder.string());
}

std::vector<AdapterPart> peft_parts(const SafetensorsFile& file) {
  const std::string where = file.file().path().string();
  std::vector<AdapterPart> parts;
  for (const auto& [key, tensor] : file.tensors()) {
    auto parsed = parse_adapter_key(key);
    if (!parsed) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} is of no known kind (LoRA, DoRA, bias, modules_to_save)",
           where, key);
    }
    check_adapter_dtype(tensor, where + ": " + key);
    parts.push_back({.key = key,
                     .module_path = std::move(parsed->module_path),
                     .role = parsed->role,
                     .tensor = {.shape = tensor.shape, .stored = tensor}});
  }
  return parts;
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

AdapterSource open_peft_folder(const fs::path& folder, const fs::path& weights) {
  AdapterSource source;
  source.path = folder;
  source.config_path = folder / "adapter_config.json";
  source.config_text = read_text_file(source.config_path, kMaxConfigBytes);
  source.config = parse_adapter_config(source.config_text, source.config_path.string());
  source.safetensors = std::make_unique<SafetensorsFile>(weights);
  source.parts = peft_parts(*source.safetensors);
  const auto fingerprint = source.safetensors->metadata().find(kBaseFingerprintKey);
  if (fingerprint != source.safetensors->metadata().end()) source.base_fingerprint = fingerprint->second;
  return source;
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
  const fs::path path = folder / "adapter_model.safetensors";
  return path_exists(path) ? path : fs::path();
}

AdapterSource open_adapter(const fs::path& path) {
  const fs::path weights = adapter_weights_path(path);
  if (!path_exists(path / "adapter_config.json"))
    fail(ErrorCode::kNotFound, "No adapter found for {}", path.string());
  if (weights.empty()) {
    refuse_pickled(path);
    fail(ErrorCode::kNotFound, "No adapter found for {}", path.string());
  }
  AdapterSource source = open_peft_folder(path, weights);
  refuse_duplicates(source);
  return source;
}

}  // namespace polylora
