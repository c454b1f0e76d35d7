#include "grammar/schema_merge.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace polylora::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 17> kAnnotations = {
    "title",        "description", "default",     "examples",
    "example",      "$schema",     "$id",         "$comment",
    "$defs",        "id",          "definitions", "deprecated",
    "readOnly",     "writeOnly",   "strict",      "contentMediaType",
    "discriminator"};

bool contains(const Json& list, const Json& value) {
  return std::ranges::find(list, value) != list.end();
}

Json as_list(const Json& value) {
  return value.is_array() ? value : Json::array({value});
}

/// The members of `a` that are in `b`.
Json common(const Json& a, const Json& b) {
  Json result = Json::array();
  for (const Json& value : a)
    if (contains(b, value)) result.push_back(value);
  return result;
}

void merge_properties(Json& into, const Json& from) {
  for (const auto& [name, schema] : from.items()) {
    if (!into.contains(name)) {
      into[name] = schema;
    } else if (into[name] != schema) {
      into[name] = Json{{"allOf", Json::array({into[name], schema})}};
    }
  }
}

void add_missing(Json& into, const Json& from) {
  for (const Json& value : from)
    if (!contains(into, value)) into.push_back(value);
}

/// Joins the two values of one keyword; false when that is not simple.
bool merge_values(const std::string& keyword, Json& into, const Json& from) {
  const bool objects = into.is_object() && from.is_object();
  const bool lists = into.is_array() && from.is_array();
  const bool numbers = into.is_number() && from.is_number();
  if (keyword == "properties" && objects) {
    merge_properties(into, from);
  } else if (keyword == "required" && lists) {
    add_missing(into, from);
  } else if (keyword == "allOf" && lists) {
    into.insert(into.end(), from.begin(), from.end());
  } else if (keyword == "enum" && lists) {
    into = common(into, from);
  } else if (keyword == "type") {
    into = common(as_list(into), as_list(from));
  } else if (keyword.starts_with("min") && numbers) {
    into = std::max(into, from);
  } else if (keyword.starts_with("max") && numbers) {
    into = std::min(into, from);
  } else {
    return false;
  }
  return true;
}

/// additionalProperties speaks of the properties beside it: it cannot move to where others join them.
void check_additional(const Json& closed, const Json& other) {
  if (!closed.contains("additionalProperties") || closed["additionalProperties"] == true) return;
  if (!other.contains("properties") || !other["properties"].is_object()) return;
  for (const auto& [name, schema] : other["properties"].items()) {
    if (!closed.contains("properties") || !closed["properties"].contains(name))
      fail(ErrorCode::kInvalidArgument,
           "JSON schema: additionalProperties with allOf or $ref that add properties ('{}') is not supported",
           name);
  }
}

}  // namespace

bool is_annotation(const std::string& keyword) {
  return std::ranges::find(kAnnotations, keyword) != kAnnotations.end() || keyword.starts_with("x-");
}

Json merge_schemas(const Json& a, const Json& b) {
  if (a == true) return b;
  if (b == true) return a;
  if (a == false || b == false) return false;
  if (!a.is_object() || !b.is_object())
    fail(ErrorCode::kInvalidArgument, "JSON schema: a schema must be an object or a boolean");
  check_additional(a, b);
  check_additional(b, a);
  Json merged = a;
  for (const auto& [keyword, value] : b.items()) {
    if (!merged.contains(keyword)) {
      merged[keyword] = value;
    } else if (merged[keyword] != value && !is_annotation(keyword) &&
               !merge_values(keyword, merged[keyword], value)) {
      fail(ErrorCode::kInvalidArgument, "JSON schema: two different values of '{}' that must both hold",
           keyword);
    }
  }
  return merged;
}

}  // namespace polylora::grammar
