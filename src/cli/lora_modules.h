// The items of --lora-modules.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace polylora {

struct LoraModule {
  std::string name;
  std::filesystem::path path;
  std::string base_model_name;
};

/// Each item is `name=path`, a JSON object {"name","path","base_model_name"?}, a JSON list of such objects,
/// or a folder whose sub-folders are adapters (named after them). Empty items are skipped. ~ is expanded.
/// Throws kInvalidArgument with vLLM's messages ("Invalid fields for --lora-modules: …", "Invalid JSON format
/// for --lora-modules: …").
std::vector<LoraModule> parse_lora_modules(const std::vector<std::string>& items);

}  // namespace polylora
