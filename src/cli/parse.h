// Parsing a verb's words with CLI11 and our manners.
#pragma once

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <vector>

namespace polylora {

/// Parses; returns an exit code when the work is already done (--help). An unknown flag, a missing or
/// malformed value throws kInvalidArgument; an unknown flag names the nearest known one.
std::optional<int> parse_words(CLI::App& app, std::vector<std::string> words);

}  // namespace polylora
