// Method and path -> handler.
#pragma once

#include <map>
#include <string>

#include "serve/http_message.h"

namespace polylora {

class Router {
 public:
  void add(std::string method, std::string path, Handler handler);

  /// Calls the route's handler; answers 404 {"detail":"Not Found"} or 405 with an allow header itself. What a
  /// handler throws becomes the answer.
  void dispatch(const std::shared_ptr<Exchange>& exchange) const;

 private:
  std::map<std::string, std::map<std::string, Handler>, std::less<>> routes_;  // path -> method
};

}  // namespace polylora
