#include "serve/request_parser.h"

#include <fmt/format.h>

#include "serve/api_error.h"
#include "serve/chat_messages.h"
#include "serve/field_reader.h"
#include "serve/sampling_parser.h"

namespace polylora {

namespace {

constexpr int kDefaultCompletionTokens = 16;  // OpenAI's

[[noreturn]] void fail_prompt() {
  fail_parameter("prompt", "Either prompt or prompt_embeds must be provided and non-empty.");
}

/// string | [string] | [int] | [[int]]
std::vector<PromptField> read_prompts(FieldReader& fields, int max_prompts) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr || (prompt->is_structured() && prompt->empty()) || *prompt == "") fail_prompt();
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array()) {
    fields.report("string_type", "body.prompt",
                  "Input should be a valid string, or a list of strings or token ids", prompt);
    return {};
  }
  const Json& first = prompt->front();
  if (!first.is_string() && !first.is_array()) {
    auto ids = fields.token_ids("prompt");
    return ids ? std::vector<PromptField>{std::move(*ids)} : std::vector<PromptField>{};
  }
  if (prompt->size() > static_cast<size_t>(max_prompts))
    fail_parameter(
        "prompt", fmt::format("a request can have at most {} prompts, got {}.", max_prompts, prompt->size()));
  std::vector<PromptField> prompts;
  for (size_t i = 0; i < prompt->size(); ++i) {
    const Json& item = (*prompt)[i];
    if (item.empty() || item == "") fail_prompt();
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else if (auto ids = fields.token_id_list(item, fmt::format("body.prompt.{}", i))) {
      prompts.emplace_back(std::move(*ids));
    } else {
      break;
    }
  }
  return prompts;
}

/// best_of is gone from vLLM; the one value that changes nothing is let through.
void check_best_of(FieldReader& fields, int n) {
  const std::optional<int> best_of = fields.small_integer("best_of");
  if (best_of && *best_of != n)
    fail_parameter("best_of", "best_of different from n is not supported by this server.");
}

void read_completion_logprobs(FieldReader& fields, const RequestRules& rules, CompletionRequest& out) {
  const std::optional<int> count = fields.small_integer("logprobs");
  if (!count) return;
  check_logprobs("logprobs", "sample", *count, rules);
  out.sampling.logprobs = *count;
  if (out.echo && out.sampling.prompt_logprobs < 0) out.sampling.prompt_logprobs = *count;
}

void read_chat_logprobs(FieldReader& fields, const RequestRules& rules, ChatRequest& out) {
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const std::optional<int> count = fields.small_integer("top_logprobs");
  if (count && *count != 0 && !wanted)
    fail_parameter("top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true.");
  if (!wanted) return;
  check_logprobs("top_logprobs", "sample", count.value_or(0), rules);
  out.sampling.logprobs = count.value_or(0);
}

void read_chat_template_fields(FieldReader& fields, ChatRequest& out) {
  if (const Json* tools = fields.array("tools")) out.tools = *tools;
  if (const Json* documents = fields.array("documents")) out.documents = *documents;
  if (const Json* kwargs = fields.object("chat_template_kwargs")) out.template_kwargs = *kwargs;
  out.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  out.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  if (out.add_generation_prompt && out.continue_final_message) {
    if (fields.find("add_generation_prompt") != nullptr)
      fail_parameter("continue_final_message",
                     "Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
    out.add_generation_prompt = false;
  }
}

void read_messages(FieldReader& fields, ChatRequest& out) {
  fields.require("messages");
  const Json* messages = fields.array("messages");
  if (messages != nullptr) out.messages = normalize_messages(*messages, fields);
}

void check_messages(const ChatRequest& request) {
  if (request.messages.empty())
    throw RequestError(ErrorCode::kInvalidArgument,
                       "Cannot apply chat template to an empty conversation. Provide at least one message.",
                       "");
}

}  // namespace

RequestRules request_rules(const ServerOptions& options, const ServedModel& model, bool priority_scheduling) {
  RequestRules rules;
  rules.max_n = options.max_n;
  rules.max_prompts = options.max_prompts;
  rules.max_stop_strings = options.max_stop_strings;
  rules.max_logprobs = model.max_logprobs;
  rules.priority_scheduling = priority_scheduling;
  rules.force_include_usage = options.enable_force_include_usage;
  rules.tools = {options.enable_auto_tool_choice ? options.tool_call_format : std::nullopt,
                 options.exclude_tools_when_tool_choice_none};
  rules.default_temperature = model.default_temperature;
  rules.default_top_p = model.default_top_p;
  rules.default_min_p = model.default_min_p;
  rules.default_repetition_penalty = model.default_repetition_penalty;
  rules.default_top_k = model.default_top_k;
  return rules;
}

CompletionRequest parse_completion_request(const Json& body, const RequestRules& rules) {
  FieldReader fields(body);
  CompletionRequest request;
  read_generation_fields(fields, rules, request);
  request.prompts = read_prompts(fields, rules.max_prompts);
  // An explicit null asks for as much as fits.
  request.max_tokens = fields.small_integer("max_tokens");
  if (!body.contains("max_tokens")) request.max_tokens = kDefaultCompletionTokens;
  fields.finish();
  refuse_unsupported_fields(fields);
  check_best_of(fields, request.n);
  check_generation_fields(fields, rules, request);
  read_completion_logprobs(fields, rules, request);
  fields.finish();
  return request;
}

ChatRequest parse_chat_request(const Json& body, const RequestRules& rules) {
  FieldReader fields(body);
  ChatRequest request;
  read_messages(fields, request);
  read_generation_fields(fields, rules, request);
  request.max_tokens = fields.small_integer("max_completion_tokens");
  if (!request.max_tokens) request.max_tokens = fields.small_integer("max_tokens");
  read_chat_template_fields(fields, request);
  fields.finish();
  check_messages(request);
  refuse_unsupported_fields(fields);
  request.tool_choice = read_tool_choice(fields, rules.tools, request.tools);
  if (request.tool_choice.arguments) {
    if (request.structured)
      fail_parameter("tool_choice",
                     "a tool_choice that forces a call cannot go together with other structured output.");
    request.structured = request.tool_choice.arguments;
  }
  check_generation_fields(fields, rules, request);
  read_chat_logprobs(fields, rules, request);
  fields.finish();
  return request;
}

TokenizeRequest parse_tokenize_request(const Json& body) {
  FieldReader fields(body);
  TokenizeRequest request;
  request.model = fields.string("model").value_or("");
  request.prompt = fields.string("prompt");
  request.add_special_tokens = fields.boolean("add_special_tokens");
  request.return_token_strs = fields.boolean("return_token_strs").value_or(false);
  if (!body.contains("messages")) {
    fields.require("prompt");
  } else {
    read_messages(fields, request.chat);
    read_chat_template_fields(fields, request.chat);
  }
  fields.finish();
  if (!request.prompt) check_messages(request.chat);
  return request;
}

DetokenizeRequest parse_detokenize_request(const Json& body) {
  FieldReader fields(body);
  DetokenizeRequest request;
  request.model = fields.string("model").value_or("");
  fields.require("tokens");
  request.tokens = fields.token_ids("tokens").value_or(std::vector<int32_t>{});
  fields.finish();
  return request;
}

}  // namespace polylora
