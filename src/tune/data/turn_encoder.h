// Conversations to token ids, turn by turn: either with a named format (chat_format.h), or with the model's
// own Jinja chat template.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "tune/config/train_config.h"
#include "tune/data/chat_format.h"
#include "tune/data/conversation.h"

namespace polylora {

/// What a model's text files say, as far as training needs it. Empty strings: absent.
struct ModelText {
  std::string chat_template;  // Jinja source
  std::string bos_token, eos_token;
  bool add_bos_token = false;  // tokenizer_config's; read by stage pt only
};

struct Turn {
  std::vector<int32_t> prompt;  // everything from the previous answer's end to where the model speaks
  std::vector<int32_t> answer;
};

/// Immutable and thread-safe. `messages` alternate and end with an answer: user, assistant, …, assistant.
class TurnEncoder {
 public:
  virtual ~TurnEncoder() = default;

  /// One Turn per answer. With `discard_history_thoughts`, reasoning formats drop the thoughts of all answers
  /// but the last, and add no empty ones there.
  virtual std::vector<Turn> encode_turns(std::span<const Message> messages, const std::string& system,
                                         bool discard_history_thoughts) const = 0;

  /// Everything before the last answer as one prompt (for preference pairs).
  virtual Turn encode_last(std::span<const Message> messages, const std::string& system) const = 0;

  bool efficient_eos() const { return efficient_eos_; }
  /// Absent when the model has no eos token and the format needs none.
  std::optional<int32_t> eos_id() const { return eos_id_; }

 protected:
  bool efficient_eos_ = false;
  std::optional<int32_t> eos_id_;
};

/// With a format. `default_system` replaces the format's own when given. Throws kInvalidArgument when the
/// format needs a token that the vocabulary lacks.
std::unique_ptr<TurnEncoder> make_format_encoder(const ChatFormat& format, const Tokenizer& tokenizer,
                                                 const ModelText& model,
                                                 const std::optional<std::string>& default_system,
                                                 bool enable_thinking);

/// With the model's Jinja template. A turn's prompt is what render(messages up to the user's, with the
/// generation prompt) adds to render(messages up to the previous answer); its answer is what
/// render(… and the answer) adds to that. So each render must begin with the one before: templates that do
/// not keep this property (Qwen3's rewrites earlier answers) are refused with kUnsupported, tried out at
/// construction and checked for every conversation. Answers end as the template ends them. A
/// `default_system` becomes the system message of conversations without one; without it, the template's own
/// default holds.
std::unique_ptr<TurnEncoder> make_jinja_encoder(const Tokenizer& tokenizer, const ModelText& model,
                                                const std::optional<std::string>& default_system,
                                                bool enable_thinking);

/// As the config asks: its `template`, or the model's own, or the format "empty" when the model has none.
std::unique_ptr<TurnEncoder> make_turn_encoder(const TrainConfig& config, const Tokenizer& tokenizer,
                                               const ModelText& model);

/// The eos token after a format's replace_eos: its first stop word or the model's; empty when there is none.
std::string eos_token_of(const ChatFormat& format, const ModelText& model);

}  // namespace polylora
