// --lora-modules: which adapters to serve from the start.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "hub/model_sources.h"

namespace polylora {

struct LoraModule {
  std::string name;
  std::filesystem::path path;
  std::string base_model_name;  // empty: not given
};

/// Each item is one of
///   name=path                                              (an item with `=` and without `,`; cut at the
///   first `=`)
///   {"name": …, "path": …, "base_model_name": …}           or a JSON list of these
///   a folder                                               every sub-folder with an adapter_config.json, by
///   its name
/// Empty items are skipped; `~` stands for the home folder. Throws kInvalidArgument for anything else.
std::vector<LoraModule> parse_lora_modules(const std::vector<std::string>& items);

/// `~` is the home folder; a path that exists becomes absolute.
std::filesystem::path resolve_adapter_path(const std::string& text);

/// Downloads those whose path is none but a hub id or the URL of a folder, and names what was downloaded
/// instead.
void find_lora_modules(std::vector<LoraModule>& modules, const ModelSources& sources);

/// Registers all of them: first the headers of all, so that no bad adapter waits for its first request, then
/// the weights, in order, as far as they fit `preload_bytes`; the rest is read on first use. `served_names`
/// are those of base models. Throws what the registry throws, naming the adapter.
void load_lora_modules(AdapterRegistry& registry, const std::vector<LoraModule>& modules,
                       const std::vector<std::string>& served_names, size_t preload_bytes);

}  // namespace polylora
