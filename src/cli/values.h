// How values are written on the command line and shown on the terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// "2048", "1k" = 1000, "1K" = 1024, "1.5m", "2G", "512MiB", …: vLLM's human-readable integers (small letters
/// are decimal, capitals binary). Throws kInvalidArgument naming `flag`.
int64_t parse_count(std::string_view flag, std::string_view text);

/// "4.0 GiB", "92 MiB", "12 KiB".
std::string format_bytes(size_t bytes);

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate closest to `word`, or "" when none is close enough to be what was meant.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace polylora
