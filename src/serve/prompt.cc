#include "serve/prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "serve/api_error.h"

namespace polylora {

namespace {

/// No token of any known vocabulary is longer: a text of more bytes than that per position cannot fit, and is
/// refused before it costs the time to tokenize it.
constexpr size_t kMaxTokenBytes = 1024;

[[noreturn]] void fail_too_long(int max_model_len, size_t tokens) {
  fail_parameter(
      "input_tokens",
      fmt::format("This model's maximum context length is {} tokens. However, your prompt contains {} "
                  "input tokens, which exceeds this limit even without any output tokens. Please reduce "
                  "the length of the input prompt.",
                  max_model_len, tokens),
      std::to_string(tokens));
}

void truncate(std::vector<int32_t>& ids, const GenerationFields& request, int max_model_len) {
  if (!request.truncate_prompt_tokens) return;
  const int reserved = request.max_tokens.value_or(1);
  const int wanted = *request.truncate_prompt_tokens;
  const auto kept = static_cast<size_t>(wanted > 0 ? wanted : std::max(max_model_len - reserved, 1));
  if (ids.size() > kept) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(kept));
}

Prompt finish_prompt(const ServedBase& base, Prompt prompt, const GenerationFields& request) {
  const int max_model_len = base.engine.options().max_model_len;
  truncate(prompt.ids, request, max_model_len);
  if (prompt.ids.empty())
    throw RequestError(ErrorCode::kInvalidArgument, "The decoder prompt cannot be empty", "prompt");
  if (prompt.ids.size() >= static_cast<size_t>(max_model_len))
    fail_too_long(max_model_len, prompt.ids.size());
  return prompt;
}

std::vector<int32_t> tokenize(const ServedBase& base, const std::string& text, bool add_special) {
  const int max_model_len = base.engine.options().max_model_len;
  if (text.size() > static_cast<size_t>(max_model_len) * kMaxTokenBytes)
    fail_parameter("prompt",
                   fmt::format("This model's maximum context length is {} tokens; a prompt of {} bytes "
                               "cannot fit. Please reduce the length of the input prompt.",
                               max_model_len, text.size()));
  return require_tokenizer(base).encode(text, add_special);
}

/// As vLLM: a word is banned at the start of a text and after a space, where those differ in one token only.
void add_bad_word(const Tokenizer& tokenizer, const std::string& word,
                  std::vector<std::vector<int32_t>>& out) {
  const std::string bare = word.substr(std::min(word.find_first_not_of(' '), word.size()));
  std::vector<int32_t> plain = tokenizer.encode(bare, false);
  std::vector<int32_t> spaced = tokenizer.encode(" " + bare, false);
  const bool both = !plain.empty() && spaced.size() == plain.size() && spaced.front() != plain.front();
  if (!plain.empty()) out.push_back(std::move(plain));
  if (both) out.push_back(std::move(spaced));
}

void check_token_ids(const char* param, const std::vector<int32_t>& ids, int vocab_size) {
  for (const int32_t id : ids)
    if (id < 0 || id >= vocab_size)
      fail_parameter(param,
                     fmt::format("token id {} is out of the vocabulary (0 to {}).", id, vocab_size - 1),
                     std::to_string(id));
}

}  // namespace

const Tokenizer& require_tokenizer(const ServedBase& base) {
  if (base.model.tokenizer == nullptr)
    fail(ErrorCode::kUnsupported,
         "This server runs without a tokenizer (--skip-tokenizer-init): prompts must be token ids, and stop "
         "strings, "
         "bad words and text routes are not available.");
  return *base.model.tokenizer;
}

Prompt make_prompt(const ServedBase& base, const PromptField& field, const GenerationFields& request) {
  Prompt prompt;
  if (const auto* text = std::get_if<std::string>(&field)) {
    prompt.text = *text;
    prompt.ids = tokenize(base, *text, request.add_special_tokens.value_or(base.model.add_special_tokens));
  } else {
    prompt.ids = std::get<std::vector<int32_t>>(field);
    if (base.model.tokenizer != nullptr) {
      check_token_ids("prompt", prompt.ids, base.model.tokenizer->vocab_size());
      if (request.echo) prompt.text = base.model.tokenizer->decode(prompt.ids, request.skip_special_tokens);
    }
  }
  return finish_prompt(base, std::move(prompt), request);
}

std::string render_chat(const ServedBase& base, const ChatRequest& request) {
  if (base.model.chat_template == nullptr)
    fail(ErrorCode::kUnsupported,
         "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
         "template if "
         "the tokenizer does not define one (--chat-template).");
  ChatTemplate::Options options;
  options.add_generation_prompt = request.add_generation_prompt;
  options.continue_final_message = request.continue_final_message;
  options.bos_token = base.model.bos_token;
  options.eos_token = base.model.eos_token;
  options.has_bos = !base.model.bos_token.empty();
  options.has_eos = !base.model.eos_token.empty();
  options.tools = request.tools;
  options.documents = request.documents;
  options.extra_kwargs = request.template_kwargs;
  return base.model.chat_template->render(request.messages, options);
}

Prompt make_chat_prompt(const ServedBase& base, const ChatRequest& request) {
  Prompt prompt;
  prompt.text = render_chat(base, request);
  prompt.ids = tokenize(base, prompt.text, request.add_special_tokens.value_or(false));
  return finish_prompt(base, std::move(prompt), request);
}

int resolve_max_tokens(const ServedBase& base, const GenerationFields& request, size_t prompt_tokens) {
  const int max_model_len = base.engine.options().max_model_len;
  const int room = max_model_len - static_cast<int>(prompt_tokens);
  if (!request.max_tokens) return std::min(room, base.model.default_max_tokens.value_or(room));
  const int wanted = std::max(*request.max_tokens, 1);  // 0 with echo: the engine computes one token, unseen
  if (wanted > max_model_len)
    fail_parameter(
        "max_tokens",
        fmt::format("max_tokens={} cannot be greater than max_model_len={}. Please request fewer output "
                    "tokens.",
                    wanted, max_model_len),
        std::to_string(wanted));
  if (wanted > room)
    fail_parameter(
        "input_tokens",
        fmt::format("This model's maximum context length is {} tokens. However, you requested {} output "
                    "tokens and your prompt contains {} input tokens, for a total of {} tokens. Please "
                    "reduce the length of the input prompt or the number of requested output tokens.",
                    max_model_len, wanted, prompt_tokens, prompt_tokens + static_cast<size_t>(wanted)),
        std::to_string(prompt_tokens));
  return wanted;
}

SamplingParams resolve_sampling(const ServedBase& base, const GenerationFields& request, int max_tokens) {
  SamplingParams sampling = request.sampling;
  sampling.max_tokens = max_tokens;
  sampling.min_tokens = std::min(sampling.min_tokens, max_tokens);
  if (!request.bad_words.empty()) {
    const Tokenizer& tokenizer = require_tokenizer(base);
    for (const std::string& word : request.bad_words)
      add_bad_word(tokenizer, word, sampling.bad_words_token_ids);
  }
  if (!request.stop.empty()) require_tokenizer(base);
  if (base.model.tokenizer != nullptr)
    check_token_ids("allowed_token_ids", sampling.allowed_token_ids, base.model.tokenizer->vocab_size());
  return sampling;
}

}  // namespace polylora
