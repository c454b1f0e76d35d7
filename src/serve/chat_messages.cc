#include "serve/chat_messages.h"

#include <fmt/format.h>

#include "serve/api_error.h"

namespace polylora {

namespace {

/// The text of one content part; null when its shape is wrong.
const Json* part_text(const Json& part) {
  if (part.is_string()) return &part;
  if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) return nullptr;
  const auto& type = part["type"].get_ref<const std::string&>();
  const bool refusal = type == "refusal";
  if (type != "text" && type != "input_text" && type != "output_text" && !refusal)
    fail_parameter("messages",
                   fmt::format("content parts of type '{}' are not supported: this model reads text only.",
                               type.substr(0, 64)));
  const auto text = part.find(refusal ? "refusal" : "text");
  return text != part.end() && text->is_string() ? &*text : nullptr;
}

Json normalize_content(const Json& content, const std::string& loc, FieldReader& fields) {
  if (content.is_null()) return "";
  if (content.is_string()) return content;
  if (!content.is_array()) {
    fields.report("string_type", loc, "Input should be a valid string", &content);
    return "";
  }
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    const Json* text = part_text(content[i]);
    if (text == nullptr) {
      fields.report("dict_type", fmt::format("{}.{}", loc, i), "Input should be a valid text content part",
                    &content[i]);
      return "";
    }
    if (i > 0) joined += '\n';
    joined += text->get_ref<const std::string&>();
  }
  return joined;
}

/// OpenAI sends a call's arguments as JSON text; templates want the object.
void parse_tool_call_arguments(Json& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    if (function.contains("arguments") && function["arguments"].is_string()) {
      const std::string text = function["arguments"].get<std::string>();
      function["arguments"] = text.empty() ? Json::object() : parse_json_body(text);
    }
  }
}

}  // namespace

Json normalize_messages(const Json& messages, FieldReader& fields) {
  Json normalized = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string loc = fmt::format("body.messages.{}", i);
    if (!messages[i].is_object()) {
      fields.report("dict_type", loc, "Input should be a valid dictionary", &messages[i]);
      return normalized;
    }
    Json message = messages[i];
    if (!message.contains("role")) {
      fields.report("missing", loc + ".role", "Field required", &messages[i]);
      return normalized;
    }
    if (!message["role"].is_string()) {
      fields.report("string_type", loc + ".role", "Input should be a valid string", &message["role"]);
      return normalized;
    }
    const auto content = message.find("content");
    message["content"] =
        content == message.end() ? Json("") : normalize_content(*content, loc + ".content", fields);
    parse_tool_call_arguments(message);
    normalized.push_back(std::move(message));
  }
  return normalized;
}

}  // namespace polylora
