// Cross-origin rules for browsers, as Starlette's CORSMiddleware applies them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "serve/http_message.h"
#include "serve/server.h"

namespace polylora {

class Cors {
 public:
  /// Throws kInvalidArgument naming the flag for an option that is not a JSON list of strings.
  explicit Cors(const ServerOptions& options);

  /// The answer to a preflight request; nothing for any other request.
  std::optional<HttpResponse> preflight(const HttpRequest& request) const;
  /// Adds the headers an ordinary answer carries.
  void decorate(const HttpRequest& request, HttpResponse& response) const;

 private:
  bool allows_origin(std::string_view origin) const;

  std::vector<std::string> origins_, methods_, headers_;
  bool any_origin_ = false, any_method_ = false, any_header_ = false;
  bool credentials_ = false;
};

}  // namespace polylora
