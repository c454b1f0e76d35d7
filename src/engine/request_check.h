// What the engine refuses before it accepts anything.
#pragma once

#include "engine/engine.h"
#include "engine/request.h"
#include "model/config.h"

namespace polylora {

/// Defaults filled in. Throws kInvalidArgument naming the flags that contradict each other or the model.
EngineOptions checked_options(EngineOptions options, const ModelConfig& config);

/// Throws kInvalidArgument with vLLM's messages: a prompt that leaves no room for a token, token ids outside
/// the vocabulary, sampling parameters outside their ranges.
void check_request(const Request& request, const EngineOptions& options, const ModelConfig& config);

}  // namespace polylora
