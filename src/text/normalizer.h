// Normalizers of tokenizer.json: text in, text out, before it is split. Immutable and thread-safe.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "text/regex.h"

namespace polylora {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Valid UTF-8 in and out.
  virtual std::string apply(std::string text) const = 0;
};

/// Null for a null component. Throws kUnsupported naming a type it does not know.
std::unique_ptr<Normalizer> make_normalizer(const nlohmann::json& component);

/// Throws kResourceExhausted where a normalizer that can multiply a text's length has made more than 1 GiB.
void check_normalized_size(size_t bytes);

/// The "pattern" member of Split and Replace: {"String": …} or {"Regex": …}.
Regex make_pattern(const nlohmann::json& component, std::string_view where);

/// Every match replaced by `content`, taken literally.
std::string replace_all(const Regex& pattern, std::string_view text, std::string_view content);

}  // namespace polylora
