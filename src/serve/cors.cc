#include "serve/cors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "serve/json_body.h"

namespace polylora {

namespace {

std::vector<std::string> parse_list(const char* flag, const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  const bool ok =
      json.is_array() && std::ranges::all_of(json, [](const Json& item) { return item.is_string(); });
  if (!ok) fail(ErrorCode::kInvalidArgument, "{} must be a JSON list of strings, got {}", flag, text);
  return json.get<std::vector<std::string>>();
}

bool contains(const std::vector<std::string>& list, std::string_view item) {
  return std::ranges::find(list, item) != list.end();
}

const std::vector<std::string> kAllMethods = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"};

}  // namespace

Cors::Cors(const ServerOptions& options)
    : origins_(parse_list("--allowed-origins", options.allowed_origins)),
      methods_(parse_list("--allowed-methods", options.allowed_methods)),
      headers_(parse_list("--allowed-headers", options.allowed_headers)),
      any_origin_(contains(origins_, "*")),
      any_method_(contains(methods_, "*")),
      any_header_(contains(headers_, "*")),
      credentials_(options.allow_credentials) {}

bool Cors::allows_origin(std::string_view origin) const {
  return any_origin_ || contains(origins_, origin);
}

std::optional<HttpResponse> Cors::preflight(const HttpRequest& request) const {
  const std::string_view method = request.headers.get("access-control-request-method");
  if (request.method != "OPTIONS" || method.empty() || !request.headers.has("origin")) return std::nullopt;
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.body = "OK";
  response.headers.add("access-control-allow-methods",
                       fmt::format("{}", fmt::join(any_method_ ? kAllMethods : methods_, ", ")));
  response.headers.add("access-control-max-age", "600");
  const std::string wanted(request.headers.get("access-control-request-headers"));
  if (!headers_.empty() && !wanted.empty())
    response.headers.add("access-control-allow-headers",
                         any_header_ ? wanted : fmt::format("{}", fmt::join(headers_, ", ")));
  const bool origin_ok = allows_origin(request.headers.get("origin"));
  const bool method_ok = any_method_ || contains(methods_, method);
  if (!origin_ok || !method_ok) {
    response.status = 400;
    response.body = fmt::format("Disallowed CORS {}", origin_ok ? "method" : "origin");
  }
  return response;
}

void Cors::decorate(const HttpRequest& request, HttpResponse& response) const {
  response.headers.add("vary", "Origin");
  const std::string origin(request.headers.get("origin"));
  if (origin.empty() || !allows_origin(origin)) return;
  // "*" may not be combined with credentials.
  response.headers.add("access-control-allow-origin", any_origin_ && !credentials_ ? "*" : origin);
  if (credentials_) response.headers.add("access-control-allow-credentials", "true");
}

}  // namespace polylora
