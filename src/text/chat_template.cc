#include "text/chat_template.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using nlohmann::ordered_json;

std::tm local_now() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  localtime_r(&now, &out);
  return out;
}

/// Templates disagree on what reasoning is called; transformers gives a message both names. (Works on values:
/// copying JSON recurses without bound.)
jinja::Value message_values(const ordered_json& messages) {
  std::vector<jinja::Value> out;
  for (const ordered_json& message : messages) {
    jinja::Value value = jinja::Value::from_json(message);
    const jinja::Value* reasoning = value.is_dict() ? value.as_dict().find("reasoning_content") : nullptr;
    if (reasoning != nullptr && value.as_dict().find("thinking") == nullptr) {
      jinja::Dict dict = value.as_dict();
      dict.set(jinja::Value::string("thinking"), *reasoning);
      value = jinja::Value::dict(std::move(dict));
    }
    out.push_back(std::move(value));
  }
  return jinja::Value::list(std::move(out));
}

/// The text that continue_final_message continues: the last message's content, or its last text part.
std::string final_text(const ordered_json& messages) {
  static const ordered_json none;
  const ordered_json& last = messages.empty() ? none : messages.back();
  const auto content = last.is_object() ? last.find("content") : last.end();
  if (last.is_object() && content != last.end()) {
    if (content->is_string()) return content->get<std::string>();
    if (content->is_array()) {
      for (auto part = content->rbegin(); part != content->rend(); ++part) {
        if (part->is_object() && part->contains("text") && (*part)["text"].is_string()) {
          return (*part)["text"].get<std::string>();
        }
      }
    }
  }
  fail(ErrorCode::kInvalidArgument,
       "continue_final_message is set but the final message has no text to continue");
}

std::string strip(const std::string& text) {
  size_t begin = text.size(), end = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t start = pos;
    if (is_python_space(next_code_point(text, pos))) continue;
    begin = std::min(begin, start);
    end = pos;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string();
}

void cut_after_final_message(std::string& prompt, const ordered_json& messages) {
  const std::string text = to_valid_utf8(final_text(messages));
  const std::string core = strip(text);
  const size_t at = prompt.rfind(core);
  if (at == std::string::npos) {
    fail(ErrorCode::kInvalidArgument,
         "continue_final_message is set but the final message does not appear in the chat after applying the "
         "chat "
         "template");
  }
  // Templates may trim a message: keep its white space only when the prompt has it.
  const bool kept = prompt.compare(at, text.size(), text) == 0;
  prompt.resize(at + (kept ? text.size() : core.size()));
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view jinja_source)
    : source_(jinja_source), template_(jinja::parse(jinja_source)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const ordered_json& messages, const Options& options) const {
  using jinja::Value;
  if (!messages.is_array()) fail(ErrorCode::kInvalidArgument, "messages must be a list");
  if (options.continue_final_message && options.add_generation_prompt) {
    fail(ErrorCode::kInvalidArgument,
         "continue_final_message and add_generation_prompt are not compatible: set one of them to false");
  }
  jinja::Interpreter interpreter(*template_, options.clock ? options.clock : local_now);
  interpreter.define("messages", message_values(messages));
  interpreter.define("tools", Value::from_json(options.tools));
  interpreter.define("documents", Value::from_json(options.documents));
  interpreter.define("add_generation_prompt", Value::boolean(options.add_generation_prompt));
  if (options.has_bos) interpreter.define("bos_token", Value::string(to_valid_utf8(options.bos_token)));
  if (options.has_eos) interpreter.define("eos_token", Value::string(to_valid_utf8(options.eos_token)));
  if (!options.extra_kwargs.is_null()) {
    if (!options.extra_kwargs.is_object()) {
      fail(ErrorCode::kInvalidArgument, "chat_template_kwargs must be an object");
    }
    for (const auto& [key, value] : options.extra_kwargs.items())
      interpreter.define(key, Value::from_json(value));
  }
  std::string prompt = interpreter.run();
  if (options.continue_final_message) cut_after_final_message(prompt, messages);
  return prompt;
}

}  // namespace polylora
