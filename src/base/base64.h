// Base64 with the standard alphabet and padding (RFC 4648, section 4).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace polylora {

std::string base64_encode(std::string_view bytes);

/// None where `text` is not Base64: another character, missing padding, bits behind the last byte.
std::optional<std::string> base64_decode(std::string_view text);

}  // namespace polylora
