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

/// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" taken apart. What wrappers add is
/// removed: the prefixes of DDP and PEFT ("module.", "base_model.model."), the words of torch.compile, FSDP
/// and checkpointing ("_orig_mod", …), and the adapter's name where it is "default", which save_pretrained
/// leaves out and a plain state_dict has. Empty when the key ends like nothing that PEFT writes.
std::optional<AdapterKey> parse_adapter_key(std::string_view key);

/// The module's path in the text model alone: "model.language_model.layers.0.…" of a model that sees is
/// "model.layers.0.…" there.
std::string text_module_path(std::string_view module_path);

}  // namespace polylora
