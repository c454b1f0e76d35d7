#include "tune/data/jinja_format.h"

#include "base/error.h"
#include "text/chat_template.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPlaceholder = "{{content}}";

Json message(const char* role, std::string_view content) {
  return {{"role", role}, {"content", content}};
}

std::string filled(const std::vector<Slot>& slots, std::string_view content) {
  std::string result;
  for (const Slot& slot : slots) {
    std::string text = slot.text;
    if (const size_t at = text.find(kPlaceholder); at != std::string::npos)
      text.replace(at, kPlaceholder.size(), content);
    result += text;
  }
  return result;
}

/// What `longer` has besides the letters of `shorter`, taken greedily from the left.
std::string letters_added(std::string_view shorter, std::string_view longer) {
  std::string added;
  size_t matched = 0;
  for (const char letter : longer) {
    if (matched == shorter.size()) break;
    if (shorter[matched] == letter)
      ++matched;
    else
      added += letter;
  }
  return added;
}

class Derivation {
 public:
  Derivation(const Tokenizer& tokenizer, const ModelText& model) : template_(model.chat_template) {
    options_.bos_token = model.bos_token;
    options_.has_bos = !model.bos_token.empty();
    options_.eos_token = model.eos_token;
    options_.has_eos = !model.eos_token.empty();
    // What the tokenizer puts in front of every text, when the template writes it too: not part of a message.
    const std::string front = tokenizer.decode(tokenizer.encode("", true), false);
    if (render(Json::array({message("user", kPlaceholder)}), true).starts_with(front)) prefix_ = front;
  }

  ChatFormat derive() const {
    ChatFormat format;
    format.name = "the model's own";
    if (!prefix_.empty()) format.prefix = {text_slot(prefix_)};
    std::string user = render(Json::array({message("user", kPlaceholder)}), true);
    const std::string answered =
        render(Json::array({message("user", kPlaceholder), message("assistant", kPlaceholder)}), false);
    if (!answered.starts_with(user)) refuse();
    format.assistant = {text_slot(answered.substr(user.size()))};
    derive_system(format, user);
    format.user = format.observation = {text_slot(user)};
    check_two_turns(format);
    return format;
  }

 private:
  static Slot text_slot(std::string text) { return {Slot::Kind::kText, std::move(text)}; }

  [[noreturn]] static void refuse() {
    fail(ErrorCode::kUnsupported,
         "the model's own chat template is not made of fixed strings around messages; name a template "
         "(template: …)");
  }

  std::string render(const Json& messages, bool generation_prompt) const {
    ChatTemplate::Options options = options_;
    options.add_generation_prompt = generation_prompt;
    const std::string text = template_.render(messages, options);
    return text.starts_with(prefix_) ? text.substr(prefix_.size()) : text;
  }

  /// Also takes the default system message, which the template puts in front of a sole user message, off it.
  void derive_system(ChatFormat& format, std::string& user) const {
    std::string without_system;
    try {
      format.system = {text_slot(render(Json::array({message("system", kPlaceholder)}), false))};
      without_system = render(Json::array({message("system", ""), message("user", kPlaceholder)}), true);
    } catch (const Error&) {
      format.system.clear();  // the template has no system messages
      return;
    }
    if (user.size() <= without_system.size()) return;
    format.default_system = letters_added(without_system, user);
    const std::string shown = filled(format.system, format.default_system);
    if (!user.starts_with(shown)) refuse();
    user.erase(0, shown.size());
  }

  void check_two_turns(const ChatFormat& format) const {
    const Json messages =
        Json::array({message("user", "One?"), message("assistant", "Two."), message("user", "Three?")});
    const std::string system =
        format.default_system.empty() ? "" : filled(format.system, format.default_system);
    const std::string ours = system + filled(format.user, "One?") + filled(format.assistant, "Two.") +
                             filled(format.user, "Three?");
    if (ours != render(messages, true)) refuse();
  }

  ChatTemplate template_;
  ChatTemplate::Options options_;
  std::string prefix_;
};

}  // namespace

ChatFormat derive_chat_format(const Tokenizer& tokenizer, const ModelText& model) {
  return Derivation(tokenizer, model).derive();
}

ChatFormat chat_format_of(const std::string& template_name, const Tokenizer& tokenizer,
                          const ModelText& model) {
  if (template_name.empty() && !model.chat_template.empty()) return derive_chat_format(tokenizer, model);
  return find_chat_format(template_name.empty() ? "empty" : template_name);
}

}  // namespace polylora
