// How values are written on the command line and shown on the terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/nearest.h"

namespace polylora {

/// "2048", "1k" = 1000, "1K" = 1024, "1.5m", "2G", "512MiB", …: vLLM's human-readable integers (small letters
/// are decimal, capitals binary). Throws kInvalidArgument naming `flag`.
int64_t parse_count(std::string_view flag, std::string_view text);

/// Any number, infinity included. Throws kInvalidArgument naming `flag`.
double parse_number(std::string_view flag, std::string_view text);

/// "a,b" -> {"a", "b"}. Throws kInvalidArgument naming `flag` for an empty item.
std::vector<std::string> split_list(std::string_view flag, std::string_view text);

/// "4.0 GiB", "92 MiB", "12 KiB".
std::string format_bytes(size_t bytes);

}  // namespace polylora
