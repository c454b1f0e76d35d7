// JSON written straight to text, for what is said once per token: no document is built.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "serve/json_body.h"

namespace polylora {

/// Appends JSON, byte for byte as dump_json() would write it. Brackets are the caller's, commas are not:
/// key() puts one where a member went before.
class JsonText {
 public:
  /// Goes on after `begun`.
  explicit JsonText(std::string begun) : text_(std::move(begun)) {}

  /// `name` needs no escapes.
  JsonText& key(std::string_view name);
  JsonText& string(std::string_view value);
  JsonText& number(int64_t value);
  JsonText& json(const Json& value);
  /// Brackets, or JSON that was written before.
  JsonText& raw(std::string_view json);

  std::string take() && { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace polylora
