// The answers of POST /v1/chat/completions.
#include <algorithm>

#include "serve/response_writer.h"

namespace polylora {

namespace {

class ChatWriter final : public ResponseWriter {
 public:
  ChatWriter(ReplyHead head, const TokenNames& names)
      : ResponseWriter(std::move(head), names, "chat.completion.chunk") {}

  std::string whole(const std::vector<ReplyPart>& choices, const Usage& usage) const override {
    Json body = begin_body("chat.completion");
    Json& list = body["choices"] = Json::array();
    for (const ReplyPart& part : choices) list.push_back(whole_choice(part));
    body["service_tier"] = nullptr;
    body["system_fingerprint"] = system_fingerprint();
    body["usage"] = usage_json(usage, true);
    body["prompt_logprobs"] = prompt_logprobs(choices.front().delta);
    body["prompt_token_ids"] = token_ids(choices.front().prompt);
    for (const char* key : {"prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics"})
      body[key] = nullptr;
    return dump_json(body);
  }

  std::string chunk(const ReplyPart& part, const ChunkContext& context) const override {
    std::string events;
    if (context.first_of_choice) events = role_chunk(part, context);
    JsonText event = begin_event();
    event.key("choices").raw("[{");
    event.key("index").number(part.index);
    event.key("delta").raw("{");
    const std::vector<ToolCallDelta>& calls = part.delta.tool_calls;
    if (calls.empty() || !part.delta.text.empty()) event.key("content").string(part.delta.text);
    if (!calls.empty()) event.key("tool_calls").json(call_deltas(calls));
    event.raw("}");
    event.key("logprobs").json(logprobs(part.delta.logprobs));
    event.key("finish_reason").json(finish_reason_json(part.delta.end));
    if (part.delta.end) event.key("stop_reason").json(stop_reason_json(part.delta.end));
    event.key("token_ids").json(token_ids(part.delta.token_ids));
    event.raw("}]");
    add_context(event, context);
    return events + end_event(std::move(event));
  }

 private:
  Json whole_choice(const ReplyPart& part) const {
    Json message;
    message["role"] = head_.role;
    const bool calls_only = part.delta.text.empty() && !part.delta.tool_calls.empty();
    message["content"] = calls_only ? Json() : Json(part.delta.text);
    for (const char* key : {"refusal", "annotations", "audio", "function_call"}) message[key] = nullptr;
    if (!part.delta.tool_calls.empty()) message["tool_calls"] = whole_calls(part.delta.tool_calls);
    message["reasoning"] = nullptr;
    Json choice;
    choice["index"] = part.index;
    choice["message"] = std::move(message);
    choice["logprobs"] = logprobs(part.delta.logprobs);
    choice["finish_reason"] = finish_reason_json(part.delta.end);
    choice["stop_reason"] = stop_reason_json(part.delta.end);
    choice["token_ids"] = token_ids(part.delta.token_ids);
    choice["routed_experts"] = nullptr;
    return choice;
  }

  static Json whole_calls(const std::vector<ToolCallDelta>& calls) {
    Json list = Json::array();
    for (const ToolCallDelta& call : calls)
      list.push_back(Json{{"id", call.id},
                          {"type", "function"},
                          {"function", Json{{"name", call.name}, {"arguments", call.arguments}}}});
    return list;
  }

  static Json call_deltas(const std::vector<ToolCallDelta>& calls) {
    Json list = Json::array();
    for (const ToolCallDelta& call : calls) {
      Json delta, function;
      if (!call.id.empty()) {
        delta["id"] = call.id;
        delta["type"] = "function";
        function["name"] = call.name;
      }
      delta["index"] = call.index;
      if (!call.arguments.empty()) function["arguments"] = call.arguments;
      delta["function"] = std::move(function);
      list.push_back(std::move(delta));
    }
    return list;
  }

  /// Says who speaks, once per choice and before any text.
  std::string role_chunk(const ReplyPart& part, const ChunkContext& context) const {
    JsonText event = begin_event();
    event.key("choices").raw("[{");
    event.key("index").number(part.index);
    event.key("delta").raw("{").key("role").string(head_.role).key("content").string("").raw("}");
    event.key("logprobs").raw("null");
    event.key("finish_reason").raw("null");
    event.raw("}]");
    if (context.usage)
      event.key("usage").json(usage_json({context.usage->prompt_tokens, 0, std::nullopt}, false));
    event.key("prompt_token_ids").json(token_ids(part.prompt));
    event.key("prompt_text").raw("null");
    return end_event(std::move(event));
  }

  Json token_ids(const std::vector<int32_t>& ids) const {
    return head_.return_token_ids ? Json(ids) : Json();
  }

  Json logprobs(const std::vector<TokenReport>& reports) const {
    if (reports.empty()) return nullptr;
    Json content = Json::array();
    for (const TokenReport& report : reports) {
      if (report.top.empty()) continue;
      Json token = token_json(report.top.front());
      Json& tops = token["top_logprobs"] = Json::array();
      for (const TokenLogprob& entry : most_likely(report.top)) tops.push_back(token_json(entry));
      content.push_back(std::move(token));
    }
    return Json{{"content", std::move(content)}};
  }

  Json token_json(const TokenLogprob& entry) const {
    Json json;
    json["token"] = names_.name(entry.id);
    json["logprob"] = json_logprob(entry.logprob);
    Json& bytes = json["bytes"] = Json::array();
    for (const char byte : names_.bytes(entry.id)) bytes.push_back(static_cast<uint8_t>(byte));
    return json;
  }

  /// The top_logprobs likeliest tokens in order; the sampled token is among the entries twice when it is one.
  std::vector<TokenLogprob> most_likely(std::vector<TokenLogprob> entries) const {
    std::stable_sort(entries.begin(), entries.end(),
                     [](const TokenLogprob& a, const TokenLogprob& b) { return a.rank < b.rank; });
    const auto repeated =
        std::unique(entries.begin(), entries.end(),
                    [](const TokenLogprob& a, const TokenLogprob& b) { return a.id == b.id; });
    entries.erase(repeated, entries.end());
    if (entries.size() > static_cast<size_t>(head_.top_logprobs))
      entries.resize(static_cast<size_t>(head_.top_logprobs));
    return entries;
  }
};

}  // namespace

std::unique_ptr<ResponseWriter> make_chat_writer(ReplyHead head, const TokenNames& names) {
  return std::make_unique<ChatWriter>(std::move(head), names);
}

}  // namespace polylora
