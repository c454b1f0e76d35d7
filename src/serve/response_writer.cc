#include "serve/response_writer.h"

#include <fmt/format.h>

#include <algorithm>

namespace polylora {

namespace {

constexpr std::string_view kEventBegin = "data: ", kEventEnd = "\n\n";

/// `body`, an object, without its end.
std::string event_head(const Json& body) {
  std::string event = std::string(kEventBegin) + dump_json(body);
  event.pop_back();
  return event;
}

}  // namespace

std::string server_sent_event(std::string_view payload) {
  return fmt::format("{}{}{}", kEventBegin, payload, kEventEnd);
}

std::string system_fingerprint() {
  return "polylora-" POLYLORA_VERSION;
}

double json_logprob(float logprob) {
  return std::max(static_cast<double>(logprob), -9999.0);
}

Json usage_json(const Usage& usage, bool with_nulls) {
  Json json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  if (usage.cached_tokens) {
    json["prompt_tokens_details"] = Json{{"cached_tokens", *usage.cached_tokens}};
  } else if (with_nulls) {
    json["prompt_tokens_details"] = nullptr;
  }
  if (with_nulls) json["completion_tokens_details"] = nullptr;
  return json;
}

Json finish_reason_json(const std::optional<ChoiceEnd>& end) {
  if (!end) return nullptr;
  switch (end->reason) {
    case FinishReason::kStop:
      return end->in_tool_calls ? "tool_calls" : "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return nullptr;
}

Json stop_reason_json(const std::optional<ChoiceEnd>& end) {
  if (end && end->stop_string) return *end->stop_string;
  if (end && end->stop_token_id) return *end->stop_token_id;
  return nullptr;
}

ResponseWriter::ResponseWriter(ReplyHead head, const TokenNames& names, const char* chunk_object)
    : head_(std::move(head)), names_(names), event_head_(event_head(begin_body(chunk_object))) {}

Json ResponseWriter::begin_body(const char* object) const {
  Json body;
  body["id"] = head_.id;
  body["object"] = object;
  body["created"] = head_.created;
  body["model"] = head_.model;
  return body;
}

std::string ResponseWriter::end_event(JsonText&& event) {
  return std::move(event.raw("}").raw(kEventEnd)).take();
}

void ResponseWriter::add_context(JsonText& event, const ChunkContext& context) {
  if (context.usage) event.key("usage").json(usage_json(*context.usage, false));
  if (context.last_of_reply) event.key("system_fingerprint").string(system_fingerprint());
}

std::string ResponseWriter::usage_chunk(const Usage& usage) const {
  JsonText event = begin_event();
  event.key("choices").raw("[]");
  add_context(event, {.first_of_choice = false, .last_of_reply = true, .usage = usage});
  return end_event(std::move(event));
}

Json ResponseWriter::prompt_logprobs(const ChoiceDelta& delta) const {
  if (!head_.prompt_logprobs) return nullptr;
  Json positions = Json::array();
  for (const std::vector<TokenLogprob>& position : delta.prompt_logprobs) {
    Json tokens;  // null for the first position
    for (const TokenLogprob& entry : position) {
      Json& token = tokens[std::to_string(entry.id)];
      token["logprob"] = json_logprob(entry.logprob);
      token["rank"] = entry.rank;
      token["decoded_token"] = names_.text(entry.id);
    }
    positions.push_back(std::move(tokens));
  }
  return positions;
}

}  // namespace polylora
