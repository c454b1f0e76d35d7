// Reads the JSON of a tokenizer: the two huge members (model.vocab, model.merges) straight into flat arrays,
// the rest into a DOM whose nesting is bounded, so that every recursion over it is bounded too.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

struct TokenizerJson {
  nlohmann::json rest;  // everything but model.vocab (when it is an object) and model.merges
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

/// Throws kDataCorrupt naming the problem and its byte offset.
TokenizerJson read_tokenizer_json(std::string_view text);

/// Typed access to an optional member: the fallback when absent or null, kDataCorrupt when of another type.
bool json_flag(const nlohmann::json& object, const char* key, bool fallback);
std::string json_string(const nlohmann::json& object, const char* key, std::string_view fallback);
/// A required string member.
std::string json_required_string(const nlohmann::json& object, const char* key, std::string_view where);
/// An integer that must lie in [low, high].
int64_t json_int(const nlohmann::json& object, const char* key, int64_t fallback, int64_t low, int64_t high);
/// The "type" of a component; kDataCorrupt when it is not an object with one.
std::string component_type(const nlohmann::json& component, std::string_view kind);

}  // namespace polylora
