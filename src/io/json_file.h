// JSON from files that may be hostile: parsed with a depth limit, errors name the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace polylora {

/// Parses `text`; throws kDataCorrupt naming `where` for syntax errors and for nesting deeper than 64.
nlohmann::json parse_json(std::string_view text, std::string_view where);
/// The same, keeping object keys in file order (PEFT's rank_pattern depends on it).
nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view where);
/// The same, refusing two members of one name in the outermost object (safetensors forbids them).
nlohmann::json parse_json_unique(std::string_view text, std::string_view where);

/// Reads and parses a file.
nlohmann::json read_json_file(const std::filesystem::path& path);
/// {} when the file is absent; kDataCorrupt when it holds anything but an object.
nlohmann::json read_json_object_if_present(const std::filesystem::path& path);

/// std::filesystem::exists that answers "no" instead of throwing, e.g. for a name the system finds too long.
bool path_exists(const std::filesystem::path& path);

}  // namespace polylora
