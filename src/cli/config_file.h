// --config FILE.yaml: flags in a file, as vLLM reads them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace polylora {

/// One key of the file and the command-line arguments it stands for.
struct ConfigEntry {
  std::string flag;                    // "--max-model-len"
  std::vector<std::string> arguments;  // {"--max-model-len", "2048"}, {"--no-enable-prefix-caching"}, …
};

/// Reads a mapping of flag names (hyphens or underscores, without the dashes) to scalars, lists, or mappings
/// (handed on as JSON). Throws kNotFound, or kInvalidArgument naming file and line.
std::vector<ConfigEntry> read_config_file(const std::filesystem::path& path);

/// The same mapping as text, for a part of such a file. `where` names it in errors.
std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& where);

/// The file's arguments before the command line's, less those that the command line gives itself.
std::vector<std::string> merge_config(const std::vector<ConfigEntry>& entries,
                                      std::vector<std::string> command_line);

}  // namespace polylora
