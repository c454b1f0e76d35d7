// Typed reading of a JSON object's members, with pydantic's conversions and messages (vLLM's clients know
// them).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/json_body.h"

namespace polylora {

/// {"name": "a", "weight": 0.5}: one of several adapters of a request.
struct WeightedName {
  std::string name;
  float weight = 1.0f;
};

/// Reads one request body. Wrong types are collected, not thrown, so that a client learns of all of them at
/// once; finish() throws them. Readers return nothing for a member that is absent, null or wrong.
class FieldReader {
 public:
  explicit FieldReader(const Json& body) : body_(body) {}

  std::optional<bool> boolean(const char* key);
  std::optional<int64_t> integer(const char* key);
  std::optional<double> number(const char* key);
  std::optional<std::string> string(const char* key);
  std::optional<std::vector<int32_t>> token_ids(const char* key);
  /// The same for a value deeper in the body, named `loc` in errors.
  std::optional<std::vector<int32_t>> token_id_list(const Json& value, const std::string& loc);
  /// A list of strings; where `or_one`, a single string counts as a list of one.
  std::optional<std::vector<std::string>> strings(const char* key, bool or_one);
  /// {"<token id>": bias}
  std::optional<std::vector<std::pair<int32_t, float>>> biases(const char* key);
  /// A list of objects with a `name` and, unless it is 1, a `weight`.
  std::optional<std::vector<WeightedName>> weighted_names(const char* key);
  /// The member itself when it is an object or a list respectively.
  const Json* object(const char* key);
  const Json* array(const char* key);

  /// Like integer() but outside int's range is an error too.
  std::optional<int> small_integer(const char* key);

  /// The member when present and not null.
  const Json* find(const char* key) const;

  void require(const char* key);  // reports a missing member
  void report(std::string_view type, std::string_view loc, std::string_view message, const Json* input);

  /// Throws vLLM's 400 when anything was reported; shows at most ten errors.
  void finish() const;

 private:
  std::optional<int64_t> to_integer(const Json& value, const std::string& loc);
  std::optional<double> to_number(const Json& value, const std::string& loc);

  const Json& body_;
  std::string first_loc_;
  std::vector<std::string> errors_;
  size_t error_count_ = 0;
};

/// A value as Python would print it, containers and long strings cut short: "'abc'", "<list of 3 items>".
std::string describe_value(const Json& value);

/// A float as Python prints it: "-1.0", "0.5", "1e+20".
std::string python_float(double value);

}  // namespace polylora
