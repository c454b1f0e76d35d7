// The JSON bodies of streamed completions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "load/bench_prompts.h"

namespace polylora {

struct BodyOptions {
  bool chat = false;        // /v1/chat/completions; the prompts must be text
  bool ignore_eos = false;  // sent only when set: not every server knows it
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();  // members of every body; they win
};

/// Asks for `prompt.max_tokens` tokens of output, streamed, with the usage at the end.
std::string completion_body(const BodyOptions& options, const std::string& model, const BenchPrompt& prompt);

}  // namespace polylora
