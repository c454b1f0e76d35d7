// Request bodies of the generation routes: JSON in, checked plain structs out. No tokenizer, no engine: what
// a prompt's length must fit is checked later (prompt.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "serve/field_reader.h"
#include "serve/json_body.h"
#include "serve/server.h"
#include "serve/structured_output.h"
#include "serve/tool_choice.h"

namespace polylora {

/// What a request may ask for and what it means when it is silent.
struct RequestRules {
  int max_n = 128;
  int max_prompts = 1024;
  int max_stop_strings = 4;
  int max_bad_words = 128;
  int max_logprobs = 20;
  bool priority_scheduling = false;
  bool force_include_usage = false;
  ToolRules tools;
  std::optional<float> default_temperature, default_top_p, default_min_p, default_repetition_penalty;
  std::optional<int> default_top_k;
};

RequestRules request_rules(const ServerOptions& options, const ServedModel& model, bool priority_scheduling);

inline constexpr size_t kMaxStackedAdapters = 16;

/// The fields that completions and chat share.
struct GenerationFields {
  std::string model;                   // empty: the base model
  std::vector<WeightedName> adapters;  // to be put on it together, besides what `model` says
  std::optional<int> max_tokens;       // absent: the route's default
  int n = 1;
  /// All but max_tokens and the tokenized bad words. `seed` is the first choice's.
  SamplingParams sampling;
  std::vector<std::string> bad_words;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  bool echo = false;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage_stats = false;
  std::optional<StructuredOutput> structured;
  std::optional<bool> add_special_tokens;
  std::optional<int> truncate_prompt_tokens;  // -1: to what the model can take
  int priority = 0;
  std::string request_id;  // empty: made up
};

using PromptField = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest : GenerationFields {
  std::vector<PromptField> prompts;  // not empty
};

struct ChatRequest : GenerationFields {
  Json messages = Json::array();  // not empty; contents are strings
  Json tools;                     // null or a list; what the template sees
  ToolChoice tool_choice;
  Json documents;  // null or a list
  Json template_kwargs = Json::object();
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

/// Throw the 400s that vLLM would (RequestError), also for fields that ask for something this server does not
/// do; fields that no one knows are ignored.
CompletionRequest parse_completion_request(const Json& body, const RequestRules& rules);
ChatRequest parse_chat_request(const Json& body, const RequestRules& rules);

/// POST /tokenize and /detokenize.
struct TokenizeRequest {
  std::string model;
  std::optional<std::string> prompt;  // or a conversation:
  ChatRequest chat;
  std::optional<bool> add_special_tokens;
  bool return_token_strs = false;
};
struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};
TokenizeRequest parse_tokenize_request(const Json& body);
DetokenizeRequest parse_detokenize_request(const Json& body);

}  // namespace polylora
