// Command-line conveniences that vLLM's users expect, before CLI11 sees the words.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// --max_model_len -> --max-model-len; values are left alone.
std::vector<std::string> dashed_flags(std::vector<std::string> words);

/// Puts the keys of `--config FILE.yaml` in front as flags; flags also given on the command line win. `model`
/// becomes the positional argument when none is given. Throws kInvalidArgument naming file and key.
std::vector<std::string> expand_config_file(std::vector<std::string> words);

/// The candidate nearest to `word` by edit distance; empty when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "4096", "4k" (1000s), "4K" (1024s), likewise m/M, g/G and a trailing "iB"/"B"; throws kInvalidArgument
/// naming `flag`.
size_t parse_size(std::string_view text, std::string_view flag);

}  // namespace polylora
