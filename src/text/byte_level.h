// GPT-2's reversible spelling of bytes as printable characters ("Ġ" is a space), used by byte-level BPE.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace polylora {

/// Appends the byte-level spelling of every byte of `bytes`.
void append_byte_level(std::string& out, std::string_view bytes);

/// The bytes that a byte-level token spells. A token with any character outside the alphabet (an added token)
/// stands for its own text.
std::string byte_level_to_bytes(std::string_view token);

}  // namespace polylora
