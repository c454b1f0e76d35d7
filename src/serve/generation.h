// One generation request of a client: its engine requests, their events, and its answer, streamed or whole.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "serve/http_message.h"
#include "serve/prompt.h"
#include "serve/response_writer.h"
#include "serve/serve_context.h"

namespace polylora {

/// A request that was parsed, tokenized and checked.
struct GenerationPlan {
  std::vector<Prompt> prompts;
  std::vector<SamplingParams> sampling;  // per prompt; the seed is the first choice's
  int n = 1;                             // choices per prompt
  ModelChoice model;
  OutputOptions output;     // but for echo, which depends on the prompt
  bool echo = false;        // completions: the prompt's text (and log-probabilities) come first
  std::string echo_prefix;  // chat: this text comes first
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage_stats = false;
  int priority = 0;
  ReplyHead head;
  bool chat = false;                                  // which format the answer has
  std::shared_ptr<grammar::CompiledGrammar> grammar;  // null: any text
  ToolChoice tool_choice;
};

/// Fills what both routes fill alike, "<id_prefix><request id>" included.
GenerationPlan begin_plan(const ServeContext& context, const GenerationFields& request,
                          const HttpRequest& http, std::string_view id_prefix);

/// Submits the plan's engine requests and answers the exchange. To be called on the exchange's executor.
/// Errors before the first token become the answer's status (what submit() throws is thrown on); later ones
/// end a stream with an error event. When the client leaves, all engine requests are cancelled.
void start_generation(ServeContext& context, const std::shared_ptr<Exchange>& exchange, GenerationPlan plan);

}  // namespace polylora
