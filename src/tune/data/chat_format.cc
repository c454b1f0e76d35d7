#include "tune/data/chat_format.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"

namespace polylora {
namespace {

Slot text(std::string content) {
  return {Slot::Kind::kText, std::move(content)};
}
Slot bos() {
  return {Slot::Kind::kBos, {}};
}
Slot eos() {
  return {Slot::Kind::kEos, {}};
}

/// What every format starts from: messages as they are, an eos after each answer.
ChatFormat bare(std::string name) {
  ChatFormat format;
  format.name = std::move(name);
  format.system = format.user = format.observation = {text("{{content}}")};
  format.assistant = {text("{{content}}"), eos()};
  return format;
}

ChatFormat default_format() {
  ChatFormat format = bare("default");
  format.system = {text("System: {{content}}"), eos(), text("\n")};
  format.user = format.observation = {text("Human: {{content}}"), eos(), text("\nAssistant:")};
  format.assistant = {text("{{content}}"), eos(), text("\n")};
  return format;
}

ChatFormat alpaca() {
  ChatFormat format = bare("alpaca");
  format.user = format.observation = {text("### Instruction:\n{{content}}\n\n### Response:\n")};
  format.assistant = {text("{{content}}"), eos(), text("\n\n")};
  format.default_system =
      "Below is an instruction that describes a task. "
      "Write a response that appropriately completes the request.\n\n";
  return format;
}

ChatFormat empty() {
  ChatFormat format = bare("empty");
  format.assistant = {text("{{content}}")};
  return format;
}

ChatFormat chatml() {
  ChatFormat format = bare("chatml");
  format.system = {text("<|im_start|>system\n{{content}}<|im_end|>\n")};
  format.user = {text("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n")};
  format.observation = {text("<|im_start|>tool\n{{content}}<|im_end|>\n<|im_start|>assistant\n")};
  format.assistant = {text("{{content}}<|im_end|>\n")};
  format.stop_words = {"<|im_end|>", "<|im_start|>"};
  format.replace_eos = true;
  return format;
}

ChatFormat smollm2() {
  ChatFormat format = chatml();
  format.name = "smollm2";
  format.observation = format.user;
  format.default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face.";
  format.stop_words = {"<|im_end|>"};
  format.replace_eos = false;
  return format;
}

ChatFormat qwen3_nothink() {
  ChatFormat format = chatml();
  format.name = "qwen3_nothink";
  format.observation = {
      text("<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n"
           "<|im_start|>assistant\n")};
  format.stop_words = {"<|im_end|>"};
  return format;
}

ChatFormat qwen3() {
  ChatFormat format = qwen3_nothink();
  format.name = "qwen3";
  format.reasoning = true;
  return format;
}

ChatFormat qwen() {
  ChatFormat format = qwen3_nothink();
  format.name = "qwen";
  format.default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
  return format;
}

ChatFormat llama2() {
  ChatFormat format = bare("llama2");
  format.system = {text("<<SYS>>\n{{content}}\n<</SYS>>\n\n")};
  format.user = format.observation = {bos(), text("[INST] {{content}} [/INST]")};
  format.system_in_user = true;
  return format;
}

ChatFormat llama3() {
  const std::string to_assistant = "{{content}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
  ChatFormat format = bare("llama3");
  format.prefix = {bos()};
  format.system = {text("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>")};
  format.user = {text("<|start_header_id|>user<|end_header_id|>\n\n" + to_assistant)};
  format.observation = {text("<|start_header_id|>ipython<|end_header_id|>\n\n" + to_assistant)};
  format.assistant = {text("{{content}}<|eot_id|>")};
  format.stop_words = {"<|eot_id|>", "<|eom_id|>"};
  format.replace_eos = true;
  return format;
}

ChatFormat mistral() {
  ChatFormat format = bare("mistral");
  format.prefix = {bos()};
  format.system = {text("{{content}}\n\n")};
  format.user = {text("[INST] {{content}}[/INST]")};
  format.observation = {text("[TOOL_RESULTS] {\"content\": {{content}}}[/TOOL_RESULTS]")};
  format.assistant = {text(" {{content}}"), eos()};
  format.system_in_user = true;
  return format;
}

ChatFormat gemma() {
  const std::string to_model = "{{content}}<end_of_turn>\n<start_of_turn>model\n";
  ChatFormat format = bare("gemma");
  format.prefix = {bos()};
  format.system = {text("{{content}}\n\n")};
  format.user = {text("<start_of_turn>user\n" + to_model)};
  format.observation = {text("<start_of_turn>tool\n" + to_model)};
  format.assistant = {text("{{content}}<end_of_turn>\n")};
  format.stop_words = {"<end_of_turn>"};
  format.replace_eos = true;
  format.system_in_user = true;
  return format;
}

ChatFormat phi() {
  ChatFormat format = bare("phi");
  format.system = {text("<|system|>\n{{content}}<|end|>\n")};
  format.user = format.observation = {text("<|user|>\n{{content}}<|end|>\n<|assistant|>\n")};
  format.assistant = {text("{{content}}<|end|>\n")};
  format.stop_words = {"<|end|>"};
  format.replace_eos = true;
  return format;
}

const std::vector<ChatFormat>& registry() {
  static const std::vector<ChatFormat> formats = {
      alpaca(),  chatml(), default_format(), empty(), gemma(),         llama2(),  llama3(),
      mistral(), phi(),    qwen(),           qwen3(), qwen3_nothink(), smollm2(),
  };
  return formats;
}

}  // namespace

const std::vector<std::string>& chat_format_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const ChatFormat& format : registry()) result.push_back(format.name);
    std::sort(result.begin(), result.end());
    return result;
  }();
  return names;
}

const ChatFormat& find_chat_format(std::string_view name) {
  for (const ChatFormat& format : registry()) {
    if (format.name == name) return format;
  }
  fail(ErrorCode::kInvalidArgument, "template '{}' is not known{} (known: {})", name,
       suggestion(name, chat_format_names()), fmt::join(chat_format_names(), ", "));
}

}  // namespace polylora
