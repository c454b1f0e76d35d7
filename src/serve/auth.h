// --api-key: "Authorization: Bearer <key>" on every route but the liveness probes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/http_message.h"

namespace polylora {

class Authenticator {
 public:
  /// Keeps only digests of the keys. No keys: everyone may do everything.
  explicit Authenticator(const std::vector<std::string>& keys);

  bool allows(const HttpRequest& request) const;
  /// 401 {"error":"Unauthorized"}
  static HttpResponse refusal();

 private:
  std::vector<std::string> digests_;
};

}  // namespace polylora
