#include "cli/lora_modules.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path expand_user(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home != nullptr && (path == "~" || path.starts_with("~/"))) return home + path.substr(1);
  return path;
}

LoraModule parse_object(const json& object, const std::string& item) {
  const auto text = [&](const char* key) {
    return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string();
  };
  bool valid = object.is_object() && !text("name").empty() && !text("path").empty();
  for (const auto& [key, value] : object.items()) {
    valid =
        valid && (key == "name" || key == "path" || key == "base_model_name" || key == "is_3d_lora_weight");
  }
  if (!valid) fail(ErrorCode::kInvalidArgument, "Invalid fields for --lora-modules: {}", item);
  return {text("name"), expand_user(text("path")), text("base_model_name")};
}

void parse_json_item(const std::string& item, std::vector<LoraModule>& modules) {
  const json value = json::parse(item, nullptr, false);
  if (value.is_discarded() || (!value.is_object() && !value.is_array())) {
    fail(ErrorCode::kInvalidArgument, "Invalid JSON format for --lora-modules: {}", item);
  }
  if (value.is_object()) {
    modules.push_back(parse_object(value, item));
  } else {
    for (const json& object : value) modules.push_back(parse_object(object, item));
  }
}

void list_folder(const fs::path& folder, std::vector<LoraModule>& modules) {
  const size_t first = modules.size();
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (fs::exists(entry.path() / "adapter_config.json"))
      modules.push_back({entry.path().filename(), entry.path(), ""});
  }
  if (modules.size() == first) {
    fail(ErrorCode::kInvalidArgument, "--lora-modules: {} has no sub-folder with an adapter_config.json",
         folder.string());
  }
  std::sort(modules.begin() + static_cast<std::ptrdiff_t>(first), modules.end(),
            [](const LoraModule& a, const LoraModule& b) { return a.name < b.name; });
}

}  // namespace

std::vector<LoraModule> parse_lora_modules(const std::vector<std::string>& items) {
  std::vector<LoraModule> modules;
  for (const std::string& item : items) {
    if (item.empty()) continue;
    const size_t equals = item.find('=');
    if (equals != std::string::npos && item.find(',') == std::string::npos) {
      modules.push_back({item.substr(0, equals), expand_user(item.substr(equals + 1)), ""});
      if (modules.back().name.empty() || modules.back().path.empty()) {
        fail(ErrorCode::kInvalidArgument, "--lora-modules: '{}' must be name=path", item);
      }
    } else if (item.front() != '{' && item.front() != '[' && fs::is_directory(expand_user(item))) {
      list_folder(expand_user(item), modules);
    } else {
      parse_json_item(item, modules);
    }
  }
  return modules;
}

}  // namespace polylora
