// The JSON of answers, key for key as vLLM writes it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/json_body.h"
#include "serve/json_text.h"
#include "serve/output_assembler.h"

namespace polylora {

/// What all chunks of one answer share.
struct ReplyHead {
  std::string id;  // "cmpl-…" or "chatcmpl-…"
  int64_t created = 0;
  std::string model;
  std::string role;      // chat only
  int top_logprobs = 0;  // chat only: how many alternatives a token shows
  bool return_token_ids = false;
  bool prompt_logprobs = false;  // the reply has them
};

struct Usage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  std::optional<int> cached_tokens;  // absent: --enable-prompt-tokens-details is off
};

/// One choice of a whole answer, or what is new of it in a stream.
struct ReplyPart {
  int index = 0;
  const ChoiceDelta& delta;
  const std::vector<int32_t>& prompt;
};

/// What a stream's chunk says besides its part.
struct ChunkContext {
  bool first_of_choice = false;
  bool last_of_reply = false;  // no chunk but the usage one may follow
  std::optional<Usage> usage;  // continuous_usage_stats
};

/// The two answer formats. Immutable; `names` outlives it.
class ResponseWriter {
 public:
  /// `chunk_object`: what the chunks of a stream call themselves.
  ResponseWriter(ReplyHead head, const TokenNames& names, const char* chunk_object);
  virtual ~ResponseWriter() = default;

  /// The body of a non-streaming answer.
  virtual std::string whole(const std::vector<ReplyPart>& choices, const Usage& usage) const = 0;
  /// The server-sent events for one part ("data: {…}\n\n", maybe more than one).
  virtual std::string chunk(const ReplyPart& part, const ChunkContext& context) const = 0;
  /// The event with the usage and no choices.
  std::string usage_chunk(const Usage& usage) const;

 protected:
  Json begin_body(const char* object) const;
  /// The event of a chunk up to its choices; end_event() closes it.
  JsonText begin_event() const { return JsonText(event_head_); }
  static std::string end_event(JsonText&& event);
  static void add_context(JsonText& event, const ChunkContext& context);
  Json prompt_logprobs(const ChoiceDelta& delta) const;

  const ReplyHead head_;
  const TokenNames& names_;

 private:
  const std::string event_head_;  // the same in all chunks
};

std::unique_ptr<ResponseWriter> make_completion_writer(ReplyHead head, const TokenNames& names);
std::unique_ptr<ResponseWriter> make_chat_writer(ReplyHead head, const TokenNames& names);

/// "data: <payload>\n\n"
std::string server_sent_event(std::string_view payload);

/// "polylora-<version>", the system_fingerprint.
std::string system_fingerprint();

// Shared by the two formats.
Json usage_json(const Usage& usage, bool with_nulls);
Json finish_reason_json(const std::optional<ChoiceEnd>& end);
Json stop_reason_json(const std::optional<ChoiceEnd>& end);
/// Log-probabilities as JSON can hold them: minus infinity becomes -9999, as in vLLM.
double json_logprob(float logprob);

}  // namespace polylora
