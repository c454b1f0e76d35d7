// JSON schemas -> grammars of the documents that they accept.
//
// Properties are written in the order in which the schema lists them. `additionalProperties` that is absent
// beside `properties` means false, and oneOf the same as anyOf, as in vLLM's backends. Keywords that say
// something about a document and are not understood are refused by name.
#pragma once

#include <nlohmann/json.hpp>

#include "grammar/expression.h"

namespace polylora::grammar {

/// Throws kInvalidArgument, naming the keyword and where it stands. References are followed within `schema`
/// only ("#/$defs/…"). The schema nests at most as deep as the parser that read it allowed.
Grammar schema_grammar(const nlohmann::ordered_json& schema);

}  // namespace polylora::grammar
