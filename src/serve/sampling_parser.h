// The sampling fields of a request: reading them and vLLM's rules about their values.
#pragma once

#include "serve/field_reader.h"
#include "serve/request_parser.h"

namespace polylora {

/// Reads the shared fields into `out`; type errors stay in `fields`.
void read_generation_fields(FieldReader& fields, const RequestRules& rules, GenerationFields& out);

/// Checks the values once all types are known to be right. `greedy` sampling allows one choice only.
void check_generation_fields(const FieldReader& fields, const RequestRules& rules,
                             const GenerationFields& in);

/// 400 when the request asks for something that exists in vLLM and not here: silently ignoring it would give
/// an answer that looks right and is not.
void refuse_unsupported_fields(const FieldReader& fields);

/// vLLM's bounds on the number of log-probabilities; `what` is "sample" or "prompt".
void check_logprobs(std::string_view param, std::string_view what, int count, const RequestRules& rules);

}  // namespace polylora
