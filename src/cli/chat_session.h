// A conversation with an in-process engine.
#pragma once

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace polylora {

/// What a session needs; all of it outlives the session.
struct ChatParts {
  Engine& engine;
  const AdapterRegistry& registry;
  const Tokenizer& tokenizer;
  const ChatTemplate& chat_template;
  std::string bos_token, eos_token;
  int max_model_len = 0;
};

/// Facts about one answer.
struct AnswerStats {
  FinishReason reason = FinishReason::kStop;
  int tokens = 0;
  double seconds = 0;  // from the first token to the last
};

class ChatSession {
 public:
  /// `max_tokens` of `sampling`: 0 = as many as the context has room for.
  ChatSession(ChatParts parts, SamplingParams sampling, std::string system);

  /// Adds the user's message, hands the answer to `print` piece by piece, adds it and returns. When it
  /// throws, the conversation is as before.
  AnswerStats ask(const std::string& text, const std::function<void(std::string_view)>& print);

  /// Ends the answer that is being generated; false when there is none. From any thread.
  bool interrupt();

  /// Throws kNotFound for an unknown name; "" = the base model. The conversation goes on.
  void use_adapter(const std::string& name);
  const std::string& adapter() const { return adapter_; }

  void set_system(std::string text);  // forgets the conversation
  void reset();                       // likewise

 private:
  Request make_request() const;

  ChatParts parts_;
  SamplingParams sampling_;
  std::string system_;
  std::string adapter_;
  nlohmann::ordered_json messages_;
  std::atomic<uint64_t> running_ = 0;  // request number + 1; 0: none
};

}  // namespace polylora
