// Names of tensors in PEFT's adapter files, in all the spellings that are about.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "io/adapter_source.h"

namespace polylora {

struct AdapterKey {
  std::string module_path;
  AdapterRole role = AdapterRole::kLoraA;
};

/// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" taken apart. The prefix may be missing
/// and the adapter's name ("default") may stand where PEFT puts it before save_pretrained removes it. Empty
/// when it ends like nothing that PEFT writes.
std::optional<AdapterKey> parse_adapter_key(std::string_view key);

}  // namespace polylora
