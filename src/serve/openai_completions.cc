// POST /v1/completions
#include "serve/api_error.h"
#include "serve/generation.h"
#include "serve/serve_context.h"

namespace polylora {

namespace {

GenerationPlan plan_completion(const ServeContext& context, const HttpRequest& http, const Json& body) {
  const CompletionRequest request = parse_completion_request(body, rules_for(context, body));
  GenerationPlan plan = begin_plan(context, request, http, "cmpl-");
  const ServedBase& base = *plan.model.base;
  plan.echo = request.echo;
  plan.output.prompt_only = request.echo && request.max_tokens == 0;
  for (const PromptField& field : request.prompts) {
    Prompt prompt = make_prompt(base, field, request);
    const int max_tokens = resolve_max_tokens(base, request, prompt.ids.size());
    plan.sampling.push_back(resolve_sampling(base, request, max_tokens));
    plan.prompts.push_back(std::move(prompt));
  }
  return plan;
}

}  // namespace

void add_completions_routes(Router& router, ServeContext& context) {
  router.add("POST", "/v1/completions", [&context](const std::shared_ptr<Exchange>& exchange) {
    prepare_answer(context, exchange, [&context, exchange](const Json& body) {
      auto plan = std::make_shared<GenerationPlan>(plan_completion(context, exchange->request(), body));
      exchange->post([&context, exchange, plan] { start_generation(context, exchange, std::move(*plan)); });
    });
  });
}

}  // namespace polylora
