// Which files of a repository are needed.
#pragma once

#include <string>
#include <vector>

#include "hub/hub_settings.h"

namespace polylora {

/// Of a model folder: configuration, tokenizer, chat template, safetensors; or the one GGUF file that id.file
/// names. Throws kNotFound, kUnsupported, kInvalidArgument with what there is instead.
std::vector<std::string> choose_model_files(const HubId& id, const std::vector<std::string>& files);

/// Of an adapter: its configuration and its weights as safetensors.
std::vector<std::string> choose_adapter_files(const HubId& id, const std::vector<std::string>& files);

}  // namespace polylora
