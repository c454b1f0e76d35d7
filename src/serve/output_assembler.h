// Tokens of one choice -> the text and log-probabilities that its client sees, piece by piece.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "serve/tool_calls.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace polylora {

/// How log-probabilities spell tokens.
class TokenNames {
 public:
  /// `tokenizer` may be null: then every token is "token_id:N", as with `as_ids`.
  TokenNames(const Tokenizer* tokenizer, bool as_ids) : tokenizer_(tokenizer), as_ids_(as_ids) {}
  std::string bytes(int32_t id) const;  // what the token contributes to a text, maybe part of a character
  std::string name(int32_t id) const;   // the same as valid UTF-8
  std::string text(int32_t id) const;   // name() whatever as_ids says; empty without a tokenizer

 private:
  const Tokenizer* tokenizer_;
  bool as_ids_;
};

struct OutputOptions {
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  int min_tokens = 0;  // a stop string counts only after that many tokens
  bool logprobs = false;
  std::string echo;                  // goes before the text
  std::vector<int32_t> echo_tokens;  // … and, with logprobs, before theirs
  bool prompt_only = false;          // echo with max_tokens 0: the one token computed is not shown
};

/// One token with its log-probabilities: the token's own first, then the most likely ones. `top` is empty for
/// the first token of a prompt, which has none.
struct TokenReport {
  int32_t id = 0;
  size_t text_offset = 0;  // in code points, of names
  std::vector<TokenLogprob> top;
};

struct ChoiceEnd {
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> stop_string;
  std::optional<int32_t> stop_token_id;
  bool in_tool_calls = false;  // what the model wants is calls
};

/// What is new for the client. Deltas add up: a client that is behind gets several as one.
struct ChoiceDelta {
  std::string text;
  std::vector<ToolCallDelta> tool_calls{};
  std::vector<int32_t> token_ids;
  std::vector<TokenReport> logprobs;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // per prompt position; the first is empty
  std::optional<ChoiceEnd> end;

  bool empty() const { return token_ids.empty() && !visible(); }
  /// There is more to see than token ids.
  bool visible() const { return !text.empty() || !tool_calls.empty() || !logprobs.empty() || end; }
  void append(ChoiceDelta&& next);
};

/// One per choice; not thread-safe.
class OutputAssembler {
 public:
  /// `tokenizer` may be null (then there is no text); it and `names` must outlive the assembler.
  OutputAssembler(const Tokenizer* tokenizer, const TokenNames& names, OutputOptions options);

  /// Takes one event. Text that a stop string may still swallow is held back until that is decided. After a
  /// stop string was found, further tokens are ignored and the terminal event's reason becomes "stop".
  ChoiceDelta take(Event&& event);

  /// A stop string was found: the engine need not go on.
  bool stopped() const { return stop_string_.has_value(); }
  /// Tokens that count for usage.
  int token_count() const { return token_count_; }

 private:
  void begin(Event& event, ChoiceDelta& delta);
  void take_token(TokenOutput&& token, bool hide_text, ChoiceDelta& delta);
  void add_text(std::string_view piece);
  void release(bool all, ChoiceDelta& delta);
  void report(int32_t id, std::vector<TokenLogprob> top, ChoiceDelta& delta);

  const Tokenizer* tokenizer_;
  const TokenNames& names_;
  OutputOptions options_;
  std::optional<StreamDecoder> decoder_;
  bool began_ = false;
  std::string held_;         // decoded but not yet released
  size_t held_checked_ = 0;  // bytes of held_ that no stop string may end in (min_tokens, checked before)
  std::optional<std::string> stop_string_;
  int token_count_ = 0;
  size_t name_offset_ = 0;
};

}  // namespace polylora
