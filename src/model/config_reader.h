// Typed reading of an HF config.json.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "model/config.h"

namespace polylora {

inline constexpr int kMaxWidth = 1 << 28;  // keeps the fused widths inside int and every matrix inside int64
inline constexpr int kMaxLayers = 4096;    // these bound what a hostile config makes the loader allocate
inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxFeedForwards = 1 << 17;  // layers x experts

/// Reads typed keys out of one JSON object and says which file and key is wrong.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string_view where) : object_(object), where_(where) {}

  bool mentions(const char* key) const { return object_.contains(key); }  // perhaps as null
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  /// From 1 to `limit`; required unless there is a fallback.
  int positive_int(const char* key, std::optional<int> fallback = {}, int limit = kMaxWidth) const {
    return integer(key, 1, limit, fallback);
  }

  int integer(const char* key, int least, int most, std::optional<int> fallback = {}) const {
    if (!has(key)) return or_missing(key, fallback);
    const nlohmann::json& value = object_.at(key);
    if (!value.is_number_integer() || value.get<int64_t>() < least || value.get<int64_t>() > most) {
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an integer from {} to {}", where_, key, least, most);
    }
    return value.get<int>();
  }

  /// Positive and representable in f32, in which everything is computed; required unless there is a fallback.
  double positive_number(const char* key, std::optional<double> fallback = {}) const {
    if (!has(key)) return or_missing(key, fallback);
    const nlohmann::json& value = object_.at(key);
    const float narrowed = value.is_number() ? static_cast<float>(value.get<double>()) : 0.0f;
    if (!(narrowed > 0) || !std::isfinite(narrowed)) {
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a positive number", where_, key);
    }
    return value.get<double>();
  }

  /// 0 for an explicit null.
  float number_or_null(const char* key, float fallback) const {
    if (!mentions(key)) return fallback;
    return has(key) ? static_cast<float>(positive_number(key)) : 0.0f;
  }

  /// Exactly `count` positive numbers.
  std::vector<float> positive_numbers(const char* key, size_t count) const {
    std::vector<float> values;
    if (has(key) && object_.at(key).is_array()) {
      for (const nlohmann::json& value : object_.at(key))
        values.push_back(value.is_number() ? static_cast<float>(value.get<double>()) : 0.0f);
    }
    const bool positive = std::all_of(values.begin(), values.end(),
                                      [](float value) { return value > 0 && std::isfinite(value); });
    if (values.size() == count && positive) return values;
    fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a list of {} positive numbers", where_, key, count);
  }

  bool has_elements(const char* key) const { return has(key) && !object_.at(key).empty(); }

  /// For each of `count` layers, whether layer_types says sliding_attention; nothing when it is absent.
  std::optional<std::vector<bool>> sliding_layers(size_t count) const {
    if (!has("layer_types")) return std::nullopt;
    const nlohmann::json& types = object_.at("layer_types");
    const bool sized = types.is_array() && types.size() == count;
    std::vector<bool> sliding;
    for (const nlohmann::json& type : sized ? types : nlohmann::json::array()) {
      if (type != "sliding_attention" && type != "full_attention") {
        fail(ErrorCode::kUnsupported,
             "{}: layer type {} is not supported; known: full_attention, sliding_attention", where_,
             type.dump());
      }
      sliding.push_back(type == "sliding_attention");
    }
    if (!sized) fail(ErrorCode::kDataCorrupt, "{}: 'layer_types' must name {} layers", where_, count);
    return sliding;
  }

  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_boolean())
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be true or false", where_, key);
    return object_.at(key).get<bool>();
  }

  std::string text(const char* key, std::string fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_string()) fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a string", where_, key);
    return object_.at(key).get<std::string>();
  }

  const nlohmann::json* object(const char* key) const {
    if (!has(key)) return nullptr;
    if (!object_.at(key).is_object())
      fail(ErrorCode::kDataCorrupt, "{}: '{}' must be an object", where_, key);
    return &object_.at(key);
  }

  std::vector<int> token_ids(const char* key) const {
    return has(key) ? parse_token_ids(object_.at(key), fmt::format("{}: '{}'", where_, key))
                    : std::vector<int>();
  }

 private:
  template <typename T>
  T or_missing(const char* key, std::optional<T> fallback) const {
    if (fallback) return *fallback;
    fail(ErrorCode::kDataCorrupt, "{}: the key '{}' is missing", where_, key);
  }

  const nlohmann::json& object_;
  std::string_view where_;
};

}  // namespace polylora
