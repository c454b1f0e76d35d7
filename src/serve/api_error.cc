#include "serve/api_error.h"

#include <spdlog/spdlog.h>

#include "serve/json_body.h"

namespace polylora {

namespace {

std::string_view type_name(ErrorCode code) {
  switch (http_status(code)) {
    case 404:
      return "NotFoundError";
    case 503:
      return "Service Unavailable";
    case 500:
      return "InternalServerError";
    default:
      return "BadRequestError";
  }
}

}  // namespace

void fail_parameter(std::string_view param, std::string_view message) {
  throw RequestError(ErrorCode::kInvalidArgument, fmt::format("{} (parameter={})", message, param),
                     std::string(param));
}

void fail_parameter(std::string_view param, std::string_view message, std::string_view value) {
  throw RequestError(ErrorCode::kInvalidArgument,
                     fmt::format("{} (parameter={}, value={})", message, param, value), std::string(param));
}

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kDataCorrupt:
    case ErrorCode::kUnsupported:
    case ErrorCode::kResourceExhausted:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

std::string error_body(const Error& error) {
  const auto* request = dynamic_cast<const RequestError*>(&error);
  const bool typed = request != nullptr && !request->type().empty();
  Json details;
  details["message"] = error.what();
  details["type"] = typed ? request->type() : std::string(type_name(error.code()));
  details["param"] = request != nullptr && !request->param().empty() ? Json(request->param()) : Json();
  details["code"] = http_status(error.code());
  return dump_json({{"error", std::move(details)}});
}

HttpResponse error_response(const Error& error) {
  HttpResponse response = json_answer(error_body(error), http_status(error.code()));
  if (response.status == 503) response.headers.add("retry-after", "1");
  return response;
}

HttpResponse error_response(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    if (http_status(known.code()) == 500) spdlog::error("{}", known.what());
    return error_response(known);
  } catch (const std::exception& unknown) {
    spdlog::error("a handler failed: {}", unknown.what());
    return error_response(Error(ErrorCode::kInternal, "internal error"));
  }
}

}  // namespace polylora
