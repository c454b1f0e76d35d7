// libFuzzer: an arbitrary chat template over a fixed conversation. Error or success only.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto messages = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hé"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": 1.5}}}]},
    {"role": "tool", "content": "42"}])");
  try {
    polylora::ChatTemplate::Options options;
    options.has_bos = true;
    options.bos_token = "<s>";
    options.tools = messages;
    const polylora::ChatTemplate chat(std::string_view(reinterpret_cast<const char*>(data), size));
    chat.render(messages, options);
  } catch (const polylora::Error&) {
  }
  return 0;
}
