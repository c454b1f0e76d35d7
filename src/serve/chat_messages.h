// The messages of a chat request, made into what chat templates expect.
#pragma once

#include "serve/field_reader.h"
#include "serve/json_body.h"

namespace polylora {

/// As vLLM's parse_chat_messages: a list of text parts becomes one string (joined by newlines), a missing
/// content the empty string, tool-call arguments objects. Wrong shapes are reported to `fields`; parts that
/// are not text throw a 400.
Json normalize_messages(const Json& messages, FieldReader& fields);

}  // namespace polylora
