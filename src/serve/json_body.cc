#include "serve/json_body.h"

#include <fmt/format.h>

#include <vector>

#include "serve/api_error.h"

namespace polylora {

namespace {

/// Walks the document once, looking at brackets, commas and colons outside strings, before anything is built.
class LimitScan {
 public:
  explicit LimitScan(const JsonLimits& limits) : limits_(limits) {}

  void run(std::string_view text) {
    for (size_t i = 0; i < text.size(); ++i) {
      switch (text[i]) {
        case '"':
          i = end_of_string(text, i);
          break;
        case '{':
        case '[':
          count_value();
          members_.push_back(0);
          if (members_.size() > static_cast<size_t>(limits_.depth))
            refuse("nests deeper than", limits_.depth);
          break;
        case '}':
        case ']':
          if (!members_.empty()) members_.pop_back();
          break;
        case ':':
          count_member();
          break;
        case ',':
          count_value();
          break;
        default:
          break;
      }
    }
  }

 private:
  static size_t end_of_string(std::string_view text, size_t begin) {
    size_t i = begin + 1;
    while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
    return i;
  }

  void count_value() {
    if (++values_ > limits_.values) refuse("has more values than", limits_.values);
  }

  void count_member() {
    if (++total_members_ > limits_.members) refuse("has more object members than", limits_.members);
    if (!members_.empty() && ++members_.back() > limits_.members_per_object)
      refuse("has an object with more members than", limits_.members_per_object);
  }

  template <typename T>
  [[noreturn]] static void refuse(std::string_view what, T limit) {
    fail_validation(
        fmt::format("1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body', 'msg': 'The JSON "
                    "document {} this server allows ({})'}}",
                    what, limit),
        "body");
  }

  const JsonLimits& limits_;
  std::vector<size_t> members_;  // per open bracket
  size_t values_ = 0;
  size_t total_members_ = 0;
};

/// Python's json module's words for what nlohmann found.
std::string_view python_reason(std::string_view what) {
  if (what.find("while parsing object key") != std::string_view::npos)
    return "Expecting property name enclosed in double quotes";
  if (what.find("while parsing object separator") != std::string_view::npos) return "Expecting ':' delimiter";
  if (what.find("while parsing object -") != std::string_view::npos ||
      what.find("while parsing array -") != std::string_view::npos)
    return "Expecting ',' delimiter";
  if (what.find("UTF-8") != std::string_view::npos) return "invalid UTF-8";
  if (what.find("out_of_range") != std::string_view::npos) return "number out of range";
  return "Expecting value";
}

[[noreturn]] void fail_syntax(size_t position, std::string_view what) {
  const std::string loc = fmt::format("body.{}", position);
  fail_validation(
      fmt::format("1 validation error:\n  {{'type': 'json_invalid', 'loc': '{}', 'msg': 'JSON decode "
                  "error', 'input': '<dict of 0 items>', 'ctx': {{'error': '{}'}}}}",
                  loc, python_reason(what)),
      loc);
}

}  // namespace

void fail_validation(const std::string& message, const std::string& param) {
  throw RequestError(ErrorCode::kInvalidArgument, message, param, "Bad Request");
}

void require_json_content_type(std::string_view content_type) {
  const std::string_view media_type = content_type.substr(0, content_type.find_first_of("; "));
  if (!media_type.empty() && !equal_ignoring_case(media_type, "application/json"))
    fail_validation("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", "");
}

Json parse_json_body(std::string_view body, const JsonLimits& limits) {
  LimitScan(limits).run(body);
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    fail_syntax(error.byte > 0 ? error.byte - 1 : 0, error.what());
  } catch (const Json::exception& error) {
    fail_syntax(0, error.what());
  }
  if (!json.is_object())
    fail_validation(
        "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a "
        "valid "
        "dictionary or object to extract fields from'}",
        "body");
  return json;
}

std::string dump_json(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace polylora
