// POST /v1/chat/completions
#include "serve/api_error.h"
#include "serve/generation.h"
#include "serve/serve_context.h"

namespace polylora {

namespace {

GenerationPlan plan_chat(const ServeContext& context, const HttpRequest& http, const Json& body) {
  const ChatRequest request = parse_chat_request(body, rules_for(context, body));
  GenerationPlan plan = begin_plan(context, request, http, "chatcmpl-");
  const ServedBase& base = *plan.model.base;
  const Json& last = request.messages.back();
  plan.chat = true;
  plan.head.role =
      request.add_generation_prompt ? context.options.response_role : last["role"].get<std::string>();
  plan.head.top_logprobs = std::max(request.sampling.logprobs, 0);
  if (request.echo && last["role"] == plan.head.role) plan.echo_prefix = last["content"].get<std::string>();
  plan.tool_choice = request.tool_choice;
  // Markers of calls are special tokens in some vocabularies.
  if (plan.tool_choice.format) plan.output.skip_special_tokens = false;
  Prompt prompt = make_chat_prompt(base, request);
  const int max_tokens = resolve_max_tokens(base, request, prompt.ids.size());
  plan.sampling.push_back(resolve_sampling(base, request, max_tokens));
  plan.prompts.push_back(std::move(prompt));
  return plan;
}

}  // namespace

void add_chat_routes(Router& router, ServeContext& context) {
  router.add("POST", "/v1/chat/completions", [&context](const std::shared_ptr<Exchange>& exchange) {
    prepare_answer(context, exchange, [&context, exchange](const Json& body) {
      auto plan = std::make_shared<GenerationPlan>(plan_chat(context, exchange->request(), body));
      exchange->post([&context, exchange, plan] { start_generation(context, exchange, std::move(*plan)); });
    });
  });
}

}  // namespace polylora
