// The Hugging Face config.json that a GGUF's metadata amounts to.
#pragma once

#include <nlohmann/json.hpp>

#include "io/gguf.h"

namespace polylora {

/// From the <architecture>.* keys (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#llm) and the
/// tensors present. Throws kUnsupported for an architecture or a feature that the forward pass does not have,
/// kDataCorrupt for missing keys; what the values must satisfy is parse_model_config's business.
nlohmann::json make_gguf_hf_config(const GgufFile& gguf);

}  // namespace polylora
