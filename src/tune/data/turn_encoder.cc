#include "tune/data/turn_encoder.h"

#include <algorithm>

#include "base/error.h"

namespace polylora {
namespace {

void append(std::vector<int32_t>& to, const std::vector<int32_t>& ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\n\r") - begin + 1);
}

void replace_first(std::string& text, std::string_view what, std::string_view with) {
  if (const size_t at = text.find(what); at != std::string::npos) text.replace(at, what.size(), with);
}

bool uses_eos(const std::vector<Slot>& slots) {
  return std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.kind == Slot::Kind::kEos; });
}

class FormatEncoder final : public TurnEncoder {
 public:
  FormatEncoder(const ChatFormat& format, const Tokenizer& tokenizer, const ModelText& model,
                bool enable_thinking)
      : format_(format), tokenizer_(tokenizer), enable_thinking_(enable_thinking) {
    efficient_eos_ = format.efficient_eos;
    if (!model.bos_token.empty()) bos_id_ = tokenizer.token_to_id(model.bos_token);
    find_eos(model);
    empty_thought_ = tokenizer.encode(format.thought_open + format.thought_close, false);
  }

  std::vector<Turn> encode_turns(std::span<const Message> messages, const std::string& system,
                                 bool discard_history_thoughts) const override {
    std::vector<Message> changed(messages.begin(), messages.end());
    const size_t last = changed.size() - 1;
    if (format_.reasoning) {
      for (size_t i = 1; i < changed.size(); i += 2) {
        if (!enable_thinking_ || (discard_history_thoughts && i != last)) remove_thought(changed[i].content);
      }
    }
    std::vector<Turn> turns;
    for (size_t i = 0; i + 1 < changed.size(); i += 2) {
      Turn turn{encode_message(changed, i, system), encode_message(changed, i + 1, system)};
      if (!discard_history_thoughts || i + 1 == last) add_empty_thought(turn, changed[i + 1].content);
      turns.push_back(std::move(turn));
    }
    return turns;
  }

  Turn encode_last(std::span<const Message> messages, const std::string& system) const override {
    std::vector<Message> changed(messages.begin(), messages.end());
    const size_t last = changed.size() - 1;
    if (format_.reasoning) {
      for (size_t i = 1; i < last; i += 2) remove_thought(changed[i].content);
      if (!enable_thinking_) remove_thought(changed[last].content);
    }
    Turn turn;
    for (size_t i = 0; i < last; ++i) append(turn.prompt, encode_message(changed, i, system));
    turn.answer = encode_message(changed, last, system);
    add_empty_thought(turn, changed[last].content);
    return turn;
  }

 private:
  void find_eos(const ModelText& model) {
    const std::string eos = eos_token_of(format_, model);
    if (!eos.empty()) eos_id_ = tokenizer_.token_to_id(eos);
    if (format_.replace_eos && !eos_id_) {
      fail(ErrorCode::kInvalidArgument,
           "template '{}' ends answers with '{}', which the model's vocabulary lacks; choose the template "
           "that the model was trained with",
           format_.name, eos);
    }
    const bool needed = format_.efficient_eos || uses_eos(format_.user) || uses_eos(format_.assistant) ||
                        uses_eos(format_.system);
    if (needed && !eos_id_) {
      fail(ErrorCode::kInvalidArgument,
           "template '{}' ends answers with the eos token, which the model does not name; add eos_token to "
           "its tokenizer_config.json",
           format_.name);
    }
  }

  const std::vector<Slot>& slots_of(Role role) const {
    if (role == Role::kAssistant) return format_.assistant;
    return role == Role::kUser ? format_.user : format_.observation;
  }

  /// `index`: the turn's number, for "{{idx}}"; the peer replaces it after the content, so also inside it.
  void append_slots(std::vector<int32_t>& ids, const std::vector<Slot>& slots, std::string_view content,
                    std::optional<size_t> index) const {
    for (const Slot& slot : slots) {
      if (slot.kind == Slot::Kind::kText) {
        std::string text = slot.text;
        replace_first(text, "{{content}}", content);
        if (index) replace_first(text, "{{idx}}", std::to_string(*index));
        if (!text.empty()) append(ids, tokenizer_.encode(text, false));
      } else if (const std::optional<int32_t> id = slot.kind == Slot::Kind::kBos ? bos_id_ : eos_id_) {
        ids.push_back(*id);
      }
    }
  }

  std::vector<int32_t> encode_message(const std::vector<Message>& messages, size_t i,
                                      const std::string& given_system) const {
    const std::string& system = given_system.empty() ? format_.default_system : given_system;
    std::vector<int32_t> ids;
    std::string content = messages[i].content;
    if (i == 0) {
      append_slots(ids, format_.prefix, {}, {});
      if (!system.empty() && format_.system_in_user) {
        std::string text = format_.system.at(0).text;
        replace_first(text, "{{content}}", system);
        content.insert(0, text);
      } else if (!system.empty()) {
        append_slots(ids, format_.system, system, {});
      }
    }
    const bool numbered = messages[i].role == Role::kUser && !format_.system_in_user;
    append_slots(ids, slots_of(messages[i].role), content, numbered ? std::optional(i / 2) : std::nullopt);
    return ids;
  }

  void remove_thought(std::string& content) const {
    const std::string &open = format_.thought_open, &close = format_.thought_close;
    for (size_t begin = content.find(open); begin != std::string::npos; begin = content.find(open, begin)) {
      const size_t end = content.find(close, begin + open.size());
      if (end == std::string::npos) break;
      content.erase(begin, end + close.size() - begin);
    }
    content.erase(0, std::min(content.find_first_not_of('\n'), content.size()));
  }

  /// Learned when the model thinks, part of the prompt when it is told not to.
  void add_empty_thought(Turn& turn, std::string_view content) const {
    if (!format_.reasoning || content.find(trimmed(format_.thought_open)) != std::string_view::npos ||
        content.find(trimmed(format_.thought_close)) != std::string_view::npos)
      return;
    if (enable_thinking_)
      turn.answer.insert(turn.answer.begin(), empty_thought_.begin(), empty_thought_.end());
    else
      append(turn.prompt, empty_thought_);
  }

  ChatFormat format_;
  const Tokenizer& tokenizer_;
  bool enable_thinking_;
  std::optional<int32_t> bos_id_;
  std::vector<int32_t> empty_thought_;
};

}  // namespace

std::string eos_token_of(const ChatFormat& format, const ModelText& model) {
  return format.replace_eos && !format.stop_words.empty() ? format.stop_words[0] : model.eos_token;
}

std::unique_ptr<TurnEncoder> make_format_encoder(const ChatFormat& format, const Tokenizer& tokenizer,
                                                 const ModelText& model,
                                                 const std::optional<std::string>& default_system,
                                                 bool enable_thinking) {
  ChatFormat own = format;
  if (default_system) own.default_system = *default_system;
  return std::make_unique<FormatEncoder>(own, tokenizer, model, enable_thinking);
}

std::unique_ptr<TurnEncoder> make_turn_encoder(const TrainConfig& config, const Tokenizer& tokenizer,
                                               const ModelText& model) {
  std::optional<std::string> default_system;
  if (config.has_default_system) default_system = config.default_system;
  if (config.template_name.empty() && !model.chat_template.empty())
    return make_jinja_encoder(tokenizer, model, default_system, config.enable_thinking);
  const ChatFormat& format = find_chat_format(config.template_name.empty() ? "empty" : config.template_name);
  if (config.train_on_prompt && format.efficient_eos) {
    fail(ErrorCode::kInvalidArgument, "train_on_prompt does not work with template '{}'", format.name);
  }
  return make_format_encoder(format, tokenizer, model, default_system, config.enable_thinking);
}

}  // namespace polylora
