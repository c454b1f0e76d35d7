// Errors as OpenAI's and vLLM's clients expect them on the wire.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "base/error.h"
#include "serve/http_message.h"

namespace polylora {

/// An Error that knows more about its place in an HTTP answer: which parameter was wrong, or that another
/// type name than its code's is expected.
class RequestError : public Error {
 public:
  RequestError(ErrorCode code, const std::string& message, std::string param, std::string type = {})
      : Error(code, message), param_(std::move(param)), type_(std::move(type)) {}
  const std::string& param() const { return param_; }  // empty: null on the wire
  const std::string& type() const { return type_; }    // empty: what the code says

 private:
  std::string param_;
  std::string type_;
};

/// Throws a 400 about one parameter in vLLM's words: "<message> (parameter=<param>, value=<value>)".
[[noreturn]] void fail_parameter(std::string_view param, std::string_view message);
[[noreturn]] void fail_parameter(std::string_view param, std::string_view message, std::string_view value);

/// The HTTP status of an error code.
int http_status(ErrorCode code);

/// {"error":{"message":…,"type":…,"param":…,"code":…}}
std::string error_body(const Error& error);

/// The whole answer for an error.
HttpResponse error_response(const Error& error);

/// The same for anything that was thrown; an unknown exception is a 500.
HttpResponse error_response(std::exception_ptr error);

/// Runs `work`; what it throws becomes the exchange's answer.
template <typename Work>
void answer_errors(const std::shared_ptr<Exchange>& exchange, Work&& work) {
  try {
    work();
  } catch (...) {
    exchange->respond(error_response(std::current_exception()));
  }
}

}  // namespace polylora
