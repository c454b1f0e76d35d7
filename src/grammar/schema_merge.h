// Two JSON schemas that must both hold, as one.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace polylora::grammar {

/// Whether the keyword says nothing about which documents are valid.
bool is_annotation(const std::string& keyword);

/// A schema that accepts what both do. Throws kInvalidArgument, naming the keyword, where that takes more
/// than putting their keywords side by side.
nlohmann::ordered_json merge_schemas(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b);

}  // namespace polylora::grammar
