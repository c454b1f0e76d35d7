#include "base/error.h"
#include "text/chat_template.h"
#include "tune/data/turn_encoder.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

const char* role_name(Role role) {
  if (role == Role::kAssistant) return "assistant";
  return role == Role::kUser ? "user" : "tool";
}

class JinjaEncoder final : public TurnEncoder {
 public:
  JinjaEncoder(const Tokenizer& tokenizer, const ModelText& model,
               const std::optional<std::string>& default_system, bool enable_thinking)
      : tokenizer_(tokenizer), template_(model.chat_template), default_system_(default_system.value_or("")) {
    if (default_system && default_system->empty()) {
      fail(
          ErrorCode::kInvalidArgument,
          "an empty default_system needs a named template: the model's own decides about its default itself");
    }
    if (!model.eos_token.empty()) eos_id_ = tokenizer.token_to_id(model.eos_token);
    options_.bos_token = model.bos_token;
    options_.has_bos = !model.bos_token.empty();
    options_.eos_token = model.eos_token;
    options_.has_eos = !model.eos_token.empty();
    options_.extra_kwargs = Json::object({{"enable_thinking", enable_thinking}});
    const Message probe[] = {{Role::kUser, "Hello"},
                             {Role::kAssistant, "Good morning"},
                             {Role::kUser, "How are you?"},
                             {Role::kAssistant, "Fine"}};
    encode_turns(probe, {}, false);
  }

  std::vector<Turn> encode_turns(std::span<const Message> messages, const std::string& system,
                                 bool /*discard_history_thoughts*/) const override {
    Json shown = opening(system);
    std::string before;
    std::vector<Turn> turns;
    for (size_t i = 0; i + 1 < messages.size(); i += 2) {
      Turn turn;
      turn.prompt = encode_added(shown, messages[i], true, before);
      turn.answer = encode_added(shown, messages[i + 1], false, before);
      turns.push_back(std::move(turn));
    }
    return turns;
  }

  Turn encode_last(std::span<const Message> messages, const std::string& system) const override {
    Json shown = opening(system);
    for (const Message& message : messages.first(messages.size() - 2)) add(shown, message);
    std::string before;
    Turn turn;
    turn.prompt = encode_added(shown, messages[messages.size() - 2], true, before);
    turn.answer = encode_added(shown, messages.back(), false, before);
    return turn;
  }

 private:
  Json opening(const std::string& given_system) const {
    const std::string& system = given_system.empty() ? default_system_ : given_system;
    Json messages = Json::array();
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    return messages;
  }

  static void add(Json& messages, const Message& message) {
    messages.push_back({{"role", role_name(message.role)}, {"content", message.content}});
  }

  /// The ids of what `message` adds to the text `before`, which becomes the longer text.
  std::vector<int32_t> encode_added(Json& messages, const Message& message, bool generation_prompt,
                                    std::string& before) const {
    add(messages, message);
    ChatTemplate::Options options = options_;
    options.add_generation_prompt = generation_prompt;
    std::string text = template_.render(messages, options);
    if (!text.starts_with(before)) {
      fail(ErrorCode::kUnsupported,
           "the model's own chat template changes earlier text when a message is added, so that answers "
           "cannot "
           "be told from prompts; name a template (template: …)");
    }
    const std::string added = text.substr(before.size());
    before = std::move(text);
    return added.empty() ? std::vector<int32_t>{} : tokenizer_.encode(added, false);
  }

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  std::string default_system_;
  ChatTemplate::Options options_;
};

}  // namespace

std::unique_ptr<TurnEncoder> make_jinja_encoder(const Tokenizer& tokenizer, const ModelText& model,
                                                const std::optional<std::string>& default_system,
                                                bool enable_thinking) {
  return std::make_unique<JinjaEncoder>(tokenizer, model, default_system, enable_thinking);
}

}  // namespace polylora
