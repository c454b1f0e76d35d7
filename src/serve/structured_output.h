// What a request wants its output to look like: response_format, structured_outputs, guided_*.
#pragma once

#include <optional>
#include <string>

#include "grammar/expression.h"
#include "serve/field_reader.h"
#include "serve/json_body.h"

namespace polylora {

struct StructuredOutput {
  enum class Kind : uint8_t { kJsonObject, kJsonSchema, kRegex, kChoice };
  Kind kind = Kind::kJsonObject;
  Json content;  // the schema, the pattern, the list of choices

  /// Equal for equal wishes.
  std::string key() const;
};

/// Reads the fields in OpenAI's, vLLM's and older vLLM's spelling. Wrong types are reported to `fields`;
/// throws a 400 for two wishes at once, and for kinds of grammars that this server does not have.
std::optional<StructuredOutput> read_structured_output(FieldReader& fields);

/// Throws kInvalidArgument, saying what in the wish is not supported.
grammar::Grammar make_grammar(const StructuredOutput& wish);

}  // namespace polylora
