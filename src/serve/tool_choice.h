// Which tools a chat request offers, and which the model must call.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "serve/field_reader.h"
#include "serve/json_body.h"
#include "serve/structured_output.h"
#include "serve/tool_calls.h"

namespace polylora {

/// The server's side of it.
struct ToolRules {
  std::optional<ToolCallFormat> automatic;  // absent: tool_choice "auto" is refused
  bool hide_when_none = false;              // tool_choice "none" keeps the tools from the template
};

/// How the calls of an answer are found, and what makes the model write them.
struct ToolChoice {
  std::optional<ToolCallFormat> format;       // "auto" and "required"
  std::string name;                           // of the one function that must be called; else empty
  std::optional<StructuredOutput> arguments;  // what a forced call looks like
  bool parallel = true;

  /// A fresh parser for one choice's text; null when there are no calls to look for.
  std::unique_ptr<ToolCallParser> make_parser() const;
};

/// Checks the shape of `tools` (null, or a list) and reads tool_choice and parallel_tool_calls by vLLM's
/// rules. Empties `tools` where the template must not see them. Throws a 400.
ToolChoice read_tool_choice(FieldReader& fields, const ToolRules& rules, Json& tools);

}  // namespace polylora
