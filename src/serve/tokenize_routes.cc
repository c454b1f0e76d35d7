// POST /tokenize and /detokenize
#include "serve/api_error.h"
#include "serve/prompt.h"
#include "serve/serve_context.h"

namespace polylora {

namespace {

std::vector<int32_t> tokenize(const ServedBase& base, const TokenizeRequest& request) {
  const Tokenizer& tokenizer = require_tokenizer(base);
  if (!request.prompt)
    return tokenizer.encode(render_chat(base, request.chat), request.add_special_tokens.value_or(false));
  return tokenizer.encode(*request.prompt,
                          request.add_special_tokens.value_or(base.model.add_special_tokens));
}

Json answer_tokenize(const ServeContext& context, const Json& body) {
  const TokenizeRequest request = parse_tokenize_request(body);
  const ServedBase& base = *choose_model(context, request.model).base;
  const std::vector<int32_t> ids = tokenize(base, request);
  Json strings;
  if (request.return_token_strs) {
    strings = Json::array();
    for (const int32_t id : ids) strings.push_back(base.model.tokenizer->token_string(id));
  }
  Json answer;
  answer["count"] = ids.size();
  answer["max_model_len"] = base.engine.options().max_model_len;
  answer["tokens"] = ids;
  answer["token_strs"] = std::move(strings);
  return answer;
}

Json answer_detokenize(const ServeContext& context, const Json& body) {
  const DetokenizeRequest request = parse_detokenize_request(body);
  const Tokenizer& tokenizer = require_tokenizer(*choose_model(context, request.model).base);
  for (const int32_t id : request.tokens)
    if (id < 0 || id >= tokenizer.vocab_size())
      fail_parameter("tokens", fmt::format("token id {} is out of the vocabulary.", id), std::to_string(id));
  Json answer;
  answer["prompt"] = tokenizer.decode(request.tokens, false);
  return answer;
}

}  // namespace

void add_tokenize_routes(Router& router, ServeContext& context) {
  router.add("POST", "/tokenize", [&context](const std::shared_ptr<Exchange>& exchange) {
    prepare_answer(context, exchange, [&context, exchange](const Json& body) {
      exchange->respond(json_answer(dump_json(answer_tokenize(context, body))));
    });
  });
  router.add("POST", "/detokenize", [&context](const std::shared_ptr<Exchange>& exchange) {
    prepare_answer(context, exchange, [&context, exchange](const Json& body) {
      exchange->respond(json_answer(dump_json(answer_detokenize(context, body))));
    });
  });
}

}  // namespace polylora
