// What load balancers and monitoring ask for.
#include "serve/serve_context.h"

namespace polylora {

namespace {

void answer_empty(const std::shared_ptr<Exchange>& exchange) {
  exchange->respond(plain_answer(""));
}

}  // namespace

void add_service_routes(Router& router, ServeContext& context) {
  router.add("GET", "/health", answer_empty);
  router.add("GET", "/ping", answer_empty);
  router.add("POST", "/ping", answer_empty);
  router.add("GET", "/version", [](const std::shared_ptr<Exchange>& exchange) {
    exchange->respond(json_answer(R"({"version":")" POLYLORA_VERSION R"("})"));
  });
  router.add("GET", "/load", [&context](const std::shared_ptr<Exchange>& exchange) {
    Json body;
    body["server_load"] = context.load.load();
    exchange->respond(json_answer(dump_json(body)));
  });
  router.add("GET", "/metrics", [&context](const std::shared_ptr<Exchange>& exchange) {
    HttpResponse response = plain_answer(context.metrics.render());
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    exchange->respond(std::move(response));
  });
}

}  // namespace polylora
