// Turns the answer to a streamed completion into a RequestRecord.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "load/request_record.h"
#include "load/sse_reader.h"

namespace polylora {

/// Understands /v1/completions and /v1/chat/completions. A piece of output is a chunk with a choice; token
/// counts come from `usage` where the server sends it, else pieces are counted.
class StreamRecorder {
 public:
  /// `record` outlives the recorder.
  StreamRecorder(RequestRecord& record, bool keep_text);
  StreamRecorder(const StreamRecorder&) = delete;
  StreamRecorder& operator=(const StreamRecorder&) = delete;

  /// Bytes of the body of an answer with status 200, `now_s` after the request was sent. Throws kDataCorrupt
  /// for what is no stream of completions, kUnavailable with the server's words for an error inside it.
  void feed(std::string_view bytes, double now_s);

  /// The body is complete. Throws kDataCorrupt when it held no output, or broke off before the end.
  void finish();

 private:
  void on_event(std::string_view data);
  bool is_output(const nlohmann::json& choice, std::string_view text, bool last) const;
  void on_piece();

  RequestRecord& record_;
  const bool keep_text_;
  SseReader events_;
  double now_s_ = 0;
  int pieces_ = 0;
  bool counted_ = false;   // the server told the number of tokens
  bool complete_ = false;  // [DONE] or a finish reason arrived
};

/// One line about an answer that is an error: OpenAI's error.message if the body has it, else its beginning.
std::string describe_error(std::string_view body);

}  // namespace polylora
