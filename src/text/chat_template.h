// Chat templates: a model's Jinja text that turns messages into a prompt, rendered as transformers does.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace polylora {

namespace jinja {
struct Template;
}

/// Immutable and thread-safe. Every Error of a render carries the template's line, except the message that
/// the template itself raises.
class ChatTemplate {
 public:
  /// Throws kDataCorrupt "chat template, line N: …" for syntax errors, kUnsupported for tags chat templates
  /// do not have (include, import, …).
  explicit ChatTemplate(std::string_view jinja_source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  struct Options {
    bool add_generation_prompt = true;
    /// Cuts the prompt right after the last message's text, so that the model goes on with it.
    bool continue_final_message = false;
    std::string bos_token, eos_token;
    bool has_bos = false, has_eos = false;  // an absent token is an undefined variable
    nlohmann::ordered_json tools;           // null: none
    nlohmann::ordered_json documents;       // null: none
    nlohmann::ordered_json extra_kwargs;    // chat_template_kwargs: an object, or null; wins over the above
    std::function<std::tm()> clock;         // for strftime_now; local time when empty
  };

  const std::string& source() const { return source_; }

  /// The prompt. Throws kInvalidArgument for messages that the template refuses (its own words when it calls
  /// raise_exception) or cannot handle, kResourceExhausted for a render that runs away.
  std::string render(const nlohmann::ordered_json& messages, const Options& options) const;

 private:
  std::string source_;
  std::unique_ptr<const jinja::Template> template_;
};

}  // namespace polylora
