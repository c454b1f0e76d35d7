#include "serve/path_sanitizer.h"

namespace polylora {

namespace {

bool ends_path(char c) {
  return std::string_view(" \t\n'\"`,;:)]}").find(c) != std::string_view::npos;
}

bool starts_word(std::string_view text, size_t i) {
  return i == 0 || std::string_view(" \t\n'\"`([{=:<").find(text[i - 1]) != std::string_view::npos;
}

}  // namespace

std::string sanitize_paths(std::string_view message) {
  std::string out;
  for (size_t i = 0; i < message.size();) {
    const bool path =
        message[i] == '/' && starts_word(message, i) && i + 1 < message.size() && !ends_path(message[i + 1]);
    if (!path) {
      out += message[i++];
      continue;
    }
    while (i < message.size() && !ends_path(message[i])) ++i;
    out += "<path>";
  }
  return out;
}

}  // namespace polylora
