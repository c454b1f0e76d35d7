#include "cli/lora_modules.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void fail_fields(const std::string& item, std::string_view why) {
  fail(ErrorCode::kInvalidArgument, "Invalid fields for --lora-modules: {} - {}", item, why);
}

LoraModule module_from_json(const json& object, const std::string& item) {
  if (!object.is_object()) fail_fields(item, "expected an object with \"name\" and \"path\"");
  for (const auto& [key, value] : object.items()) {
    if (key == "is_3d_lora_weight") {
      if (value != false)
        fail_fields(item, "adapters on stacked experts (target_parameters) are not supported");
    } else if (key != "name" && key != "path" && key != "base_model_name") {
      fail_fields(item, fmt::format("unknown field '{}'", key));
    } else if (!value.is_string() && !(key == "base_model_name" && value.is_null())) {
      fail_fields(item, fmt::format("'{}' must be a string", key));
    }
  }
  for (const char* key : {"name", "path"}) {
    if (!object.contains(key)) fail_fields(item, fmt::format("'{}' is missing", key));
  }
  const auto base = object.find("base_model_name");
  return {object["name"], resolve_adapter_path(object["path"]),
          base == object.end() || base->is_null() ? "" : base->get<std::string>()};
}

void append_json(const std::string& item, std::vector<LoraModule>& modules) {
  const json value = json::parse(item, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) {
    fail(ErrorCode::kInvalidArgument, "Invalid JSON format for --lora-modules: {}", item);
  }
  if (!value.is_array()) {
    modules.push_back(module_from_json(value, item));
    return;
  }
  for (const json& entry : value) modules.push_back(module_from_json(entry, item));
}

[[noreturn]] void fail_unnamed(const fs::path& adapter) {
  fail(ErrorCode::kInvalidArgument, "--lora-modules: {} is an adapter; give it a name: NAME={}",
       adapter.string(), adapter.string());
}

void append_folder(const fs::path& folder, std::vector<LoraModule>& modules) {
  if (fs::exists(folder / "adapter_config.json")) fail_unnamed(folder);
  std::vector<LoraModule> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (fs::exists(entry.path() / "adapter_config.json")) {
      found.push_back({entry.path().filename(), entry.path(), ""});
    }
  }
  if (found.empty()) {
    fail(ErrorCode::kInvalidArgument, "--lora-modules: no sub-folder of {} has an adapter_config.json",
         folder.string());
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  modules.insert(modules.end(), found.begin(), found.end());
}

void append_item(const std::string& item, std::vector<LoraModule>& modules) {
  const size_t equals = item.find('=');
  if (equals != std::string::npos && item.find(',') == std::string::npos) {
    modules.push_back({item.substr(0, equals), resolve_adapter_path(item.substr(equals + 1)), ""});
  } else if (const fs::path path = resolve_adapter_path(item); fs::is_directory(path)) {
    append_folder(path, modules);
  } else if (fs::is_regular_file(path)) {
    fail_unnamed(path);
  } else {
    append_json(item, modules);
  }
}

/// Does `work`, whose errors say which adapter it was about.
template <typename Work>
void with_adapter_named(const LoraModule& module, Work work) {
  try {
    work();
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("adapter '{}' ({}): {}", module.name, module.path.string(), error.what()));
  }
}

void add_to_registry(AdapterRegistry& registry, const LoraModule& module, AdapterRegistry::LoadMode mode) {
  const bool replace = mode == AdapterRegistry::LoadMode::kNow;  // the second pass
  with_adapter_named(module,
                     [&] { registry.add(module.name, module.path, mode, replace, module.base_model_name); });
}

}  // namespace

fs::path resolve_adapter_path(const std::string& text) {
  const char* home = std::getenv("HOME");
  fs::path path = text;
  if (home != nullptr && (text == "~" || text.starts_with("~/"))) path = home + text.substr(1);
  return fs::exists(path) ? fs::absolute(path) : path;
}

std::vector<LoraModule> parse_lora_modules(const std::vector<std::string>& items) {
  std::vector<LoraModule> modules;
  for (const std::string& item : items) {
    if (!item.empty()) append_item(item, modules);
  }
  for (const LoraModule& module : modules) {
    if (module.name.empty() || module.path.empty()) {
      fail(ErrorCode::kInvalidArgument, "--lora-modules: '{}={}' needs a name and a path", module.name,
           module.path.string());
    }
  }
  return modules;
}

void find_lora_modules(std::vector<LoraModule>& modules, const ModelSources& sources) {
  for (LoraModule& module : modules)
    with_adapter_named(module, [&] { module.path = sources.find_adapter(module.path.string()); });
}

void load_lora_modules(AdapterRegistry& registry, const std::vector<LoraModule>& modules,
                       const std::vector<std::string>& served_names, size_t preload_bytes) {
  const auto is_served = [&](const std::string& name) {
    return std::find(served_names.begin(), served_names.end(), name) != served_names.end();
  };
  for (const LoraModule& module : modules) {
    if (is_served(module.name)) {
      fail(ErrorCode::kInvalidArgument, "The lora adapter '{}' conflicts with a served base model.",
           module.name);
    }
    add_to_registry(registry, module, AdapterRegistry::LoadMode::kLazy);
  }

  const std::vector<AdapterInfo> infos = registry.list();  // in the order of `modules`
  size_t total = 0;
  for (size_t i = 0; i < modules.size() && i < infos.size(); ++i) {
    total += infos[i].bytes;
    if (total > preload_bytes) return;
    add_to_registry(registry, modules[i], AdapterRegistry::LoadMode::kNow);
  }
}

}  // namespace polylora
