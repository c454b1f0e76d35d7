#include <utility>

#include "base/error.h"
#include "io/adapter_formats.h"
#include "io/adapter_keys.h"

namespace polylora {

AdapterSource open_peft_folder(const std::filesystem::path& folder) {
  AdapterSource source = open_adapter_folder(folder, "adapter_model.safetensors");
  source.config = parse_adapter_config(source.config_text, source.config_path.string());
  const std::string where = source.file().path().string();
  for (const auto& [key, tensor] : source.safetensors->tensors()) {
    auto parsed = parse_adapter_key(key);
    if (!parsed) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} is of no known kind (LoRA, DoRA, bias, modules_to_save)",
           where, key);
    }
    source.parts.push_back({.key = key,
                            .module_path = std::move(parsed->module_path),
                            .role = parsed->role,
                            .tensor = stored_rows(tensor)});
  }
  const auto fingerprint = source.safetensors->metadata().find(kBaseFingerprintKey);
  if (fingerprint != source.safetensors->metadata().end()) source.base_fingerprint = fingerprint->second;
  return source;
}

}  // namespace polylora
