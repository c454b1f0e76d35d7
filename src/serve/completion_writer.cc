// The answers of POST /v1/completions.
#include "serve/response_writer.h"

namespace polylora {

namespace {

class CompletionWriter final : public ResponseWriter {
 public:
  CompletionWriter(ReplyHead head, const TokenNames& names)
      : ResponseWriter(std::move(head), names, "text_completion") {}

  std::string whole(const std::vector<ReplyPart>& choices, const Usage& usage) const override {
    Json body = begin_body("text_completion");
    Json& list = body["choices"] = Json::array();
    for (const ReplyPart& part : choices) {
      Json choice;
      choice["index"] = part.index;
      choice["text"] = part.delta.text;
      choice["logprobs"] = logprobs(part.delta.logprobs);
      choice["finish_reason"] = finish_reason_json(part.delta.end);
      choice["stop_reason"] = stop_reason_json(part.delta.end);
      choice["token_ids"] = token_ids(part.delta.token_ids);
      choice["prompt_logprobs"] = prompt_logprobs(part.delta);
      choice["prompt_token_ids"] = token_ids(part.prompt);
      choice["routed_experts"] = nullptr;
      list.push_back(std::move(choice));
    }
    body["service_tier"] = nullptr;
    body["system_fingerprint"] = system_fingerprint();
    body["usage"] = usage_json(usage, true);
    body["kv_transfer_params"] = nullptr;
    body["ec_transfer_params"] = nullptr;
    body["metrics"] = nullptr;
    return dump_json(body);
  }

  std::string chunk(const ReplyPart& part, const ChunkContext& context) const override {
    JsonText event = begin_event();
    event.key("choices").raw("[{");
    event.key("index").number(part.index);
    event.key("text").string(part.delta.text);
    event.key("logprobs").json(logprobs(part.delta.logprobs));
    event.key("finish_reason").json(finish_reason_json(part.delta.end));
    event.key("stop_reason").json(stop_reason_json(part.delta.end));
    event.key("prompt_token_ids").json(context.first_of_choice ? token_ids(part.prompt) : Json());
    event.key("token_ids").json(token_ids(part.delta.token_ids));
    event.raw("}]");
    add_context(event, context);
    return end_event(std::move(event));
  }

 private:
  Json token_ids(const std::vector<int32_t>& ids) const {
    return head_.return_token_ids ? Json(ids) : Json();
  }

  Json logprobs(const std::vector<TokenReport>& reports) const {
    if (reports.empty()) return nullptr;
    Json offsets = Json::array(), values = Json::array(), tokens = Json::array(), tops = Json::array();
    for (const TokenReport& report : reports) {
      const bool known = !report.top.empty();
      offsets.push_back(report.text_offset);
      values.push_back(known ? Json(json_logprob(report.top.front().logprob)) : Json());
      tokens.push_back(names_.name(report.id));
      tops.push_back(known ? top_tokens(report.top) : Json());
    }
    Json json;
    json["text_offset"] = std::move(offsets);
    json["token_logprobs"] = std::move(values);
    json["tokens"] = std::move(tokens);
    json["top_logprobs"] = std::move(tops);
    return json;
  }

  /// Keyed by spelling: of two tokens spelled alike (parts of characters) the later one shows, as in vLLM.
  Json top_tokens(const std::vector<TokenLogprob>& top) const {
    Json json = Json::object();
    for (const TokenLogprob& entry : top) json[names_.name(entry.id)] = json_logprob(entry.logprob);
    return json;
  }
};

}  // namespace

std::unique_ptr<ResponseWriter> make_completion_writer(ReplyHead head, const TokenNames& names) {
  return std::make_unique<CompletionWriter>(std::move(head), names);
}

}  // namespace polylora
