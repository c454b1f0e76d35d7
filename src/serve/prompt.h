// Text and messages -> token ids that fit the model.
#pragma once

#include <string>
#include <vector>

#include "serve/request_parser.h"
#include "serve/serve_context.h"

namespace polylora {

struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // what `echo` shows
};

/// Tokenizes (or takes) one prompt of /v1/completions and cuts it as truncate_prompt_tokens says. Throws a
/// 400 when it cannot fit the model even without any output.
Prompt make_prompt(const ServedBase& base, const PromptField& field, const GenerationFields& request);

/// The same for a conversation, through the chat template.
Prompt make_chat_prompt(const ServedBase& base, const ChatRequest& request);

/// Renders the chat template. Throws a 400 when there is none or it refuses the messages.
std::string render_chat(const ServedBase& base, const ChatRequest& request);

/// The most tokens a request may generate. Throws vLLM's 400 when prompt and max_tokens do not fit together.
int resolve_max_tokens(const ServedBase& base, const GenerationFields& request, size_t prompt_tokens);

/// What the engine gets: `request.sampling` with max_tokens and the tokenized bad words.
SamplingParams resolve_sampling(const ServedBase& base, const GenerationFields& request, int max_tokens);

/// Throws a 400 where a tokenizer is needed and --skip-tokenizer-init left none.
const Tokenizer& require_tokenizer(const ServedBase& base);

}  // namespace polylora
