#include "serve/router.h"

#include "serve/api_error.h"

namespace polylora {

namespace {

HttpResponse detail(int status, const char* text) {
  return json_answer(std::string("{\"detail\":\"") + text + "\"}", status);
}

}  // namespace

void Router::add(std::string method, std::string path, Handler handler) {
  routes_[std::move(path)][std::move(method)] = std::move(handler);
}

void Router::dispatch(const std::shared_ptr<Exchange>& exchange) const {
  const auto path = routes_.find(exchange->request().path);
  if (path == routes_.end()) return exchange->respond(detail(404, "Not Found"));
  const auto method = path->second.find(exchange->request().method);
  if (method != path->second.end()) return answer_errors(exchange, [&] { method->second(exchange); });
  HttpResponse refused = detail(405, "Method Not Allowed");
  std::string allowed;
  for (const auto& [name, handler] : path->second) allowed += (allowed.empty() ? "" : ", ") + name;
  refused.headers.add("allow", std::move(allowed));
  exchange->respond(std::move(refused));
}

}  // namespace polylora
