#include "load/request_bodies.h"

#include "base/error.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

Json content_of(const BenchPrompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt.content)) return *text;
  return std::get<std::vector<int32_t>>(prompt.content);
}

}  // namespace

std::string completion_body(const BodyOptions& options, const std::string& model, const BenchPrompt& prompt) {
  Json body = {{"model", model}};
  if (options.chat) {
    check(std::holds_alternative<std::string>(prompt.content), "a chat prompt must be text");
    body["messages"] = {{{"role", "user"}, {"content", content_of(prompt)}}};
    body["max_completion_tokens"] = prompt.max_tokens;
  } else {
    body["prompt"] = content_of(prompt);
    body["max_tokens"] = prompt.max_tokens;
  }
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (options.ignore_eos) body["ignore_eos"] = true;
  for (const auto& [key, value] : options.extra.items()) body[key] = value;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace polylora
