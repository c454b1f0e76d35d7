// JSON as it comes in and goes out.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace polylora {

/// Members keep the order in which they were added: clients and templates see it.
using Json = nlohmann::ordered_json;

/// Bounds on what one document may make us allocate or compute. An ordered object looks its members up
/// linearly, so their number is bounded, not only the bytes.
struct JsonLimits {
  int depth = 100;
  size_t values = size_t{4} << 20;
  size_t members = 100'000;  // of all objects together
  size_t members_per_object = 4'096;
};

/// Parses a request body that must be a JSON object. Throws a 400 in vLLM's words: json_invalid with the byte
/// where parsing stopped, or which limit the document exceeds. NaN and Infinity are not JSON and are refused.
Json parse_json_body(std::string_view body, const JsonLimits& limits = {});

/// The content type of every request with a body. Throws vLLM's 400 for another one.
void require_json_content_type(std::string_view content_type);

/// Compact, UTF-8 as it is; never throws: invalid bytes become U+FFFD, NaN and infinities null.
std::string dump_json(const Json& json);

/// A 400 about the body's schema: "N validation errors:" and one line each.
[[noreturn]] void fail_validation(const std::string& message, const std::string& param);

}  // namespace polylora
