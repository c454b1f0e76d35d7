#include "cli/config_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace polylora {
namespace {

/// A YAML value inside a list or mapping, as JSON. Everything unquoted that JSON would write the same keeps
/// its type; "1.10" stays the text that it is.
nlohmann::json to_json(const YAML::Node& node) {
  if (node.IsSequence()) {
    nlohmann::json list = nlohmann::json::array();
    for (const YAML::Node& item : node) list.push_back(to_json(item));
    return list;
  }
  if (node.IsMap()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& item : node) object[item.first.as<std::string>()] = to_json(item.second);
    return object;
  }
  if (node.IsNull()) return nullptr;
  const std::string text = node.Scalar();
  if (node.Tag() == "!") return text;  // quoted
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() || value.dump() != text ? nlohmann::json(text) : value;
}

std::string to_argument(const YAML::Node& node) {
  return node.IsScalar() ? node.Scalar() : to_json(node).dump();
}

ConfigEntry read_entry(std::string key, const YAML::Node& value) {
  std::replace(key.begin(), key.end(), '_', '-');
  const std::string flag = "--" + key;
  if (value.IsNull()) return {flag, {}};
  bool on = false;
  if (value.IsScalar() && value.Tag() != "!" && YAML::convert<bool>::decode(value, on)) {
    return {flag, {on ? flag : "--no-" + key}};
  }
  ConfigEntry entry{flag, {flag}};
  if (value.IsSequence()) {
    for (const YAML::Node& item : value) entry.arguments.push_back(to_argument(item));
  } else {
    entry.arguments.push_back(to_argument(value));
  }
  return entry;
}

/// "--no-foo_bar=x" -> "--foo-bar": the key that an argument decides.
std::string flag_of(const std::string& argument) {
  if (!argument.starts_with("--")) return {};
  std::string name = argument.substr(0, argument.find('='));
  std::replace(name.begin(), name.end(), '_', '-');
  return name.starts_with("--no-") ? "--" + name.substr(5) : name;
}

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::filesystem::path& path) {
  return parse_config(read_text_file(path), "--config " + path.string());
}

std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& where) {
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) {
      fail(ErrorCode::kInvalidArgument, "{}: expected lines of the form `flag-name: value`", where);
    }
    std::vector<ConfigEntry> entries;
    for (const auto& item : root) entries.push_back(read_entry(item.first.as<std::string>(), item.second));
    return entries;
  } catch (const YAML::Exception& error) {
    fail(ErrorCode::kInvalidArgument, "{}: line {}: {}", where, error.mark.line + 1, error.msg);
  }
}

std::vector<std::string> merge_config(const std::vector<ConfigEntry>& entries,
                                      std::vector<std::string> command_line) {
  std::set<std::string> given;
  for (const std::string& argument : command_line) given.insert(flag_of(argument));

  std::vector<std::string> merged;
  // A model given by position stays in front: a list flag before it would take it for one of its values.
  auto rest = command_line.begin();
  if (rest != command_line.end() && !rest->starts_with("-")) {
    given.insert("--model");
    merged.push_back(std::move(*rest++));
  }
  for (const ConfigEntry& entry : entries) {
    if (!given.contains(entry.flag)) {
      merged.insert(merged.end(), entry.arguments.begin(), entry.arguments.end());
    }
  }
  merged.insert(merged.end(), std::make_move_iterator(rest), std::make_move_iterator(command_line.end()));
  return merged;
}

}  // namespace polylora
