// libFuzzer: arbitrary output of a model, cut anywhere, through every parser of tool calls. What comes out
// must not depend on the cuts.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "serve/tool_calls.h"

namespace {

std::string read(polylora::ToolCallFormat format, std::string_view text, size_t piece) {
  const auto parser = polylora::make_tool_call_parser(format, true);
  std::string content;
  std::vector<polylora::ToolCallDelta> calls;
  const auto push = [&](std::string_view part, bool last) {
    std::vector<polylora::ToolCallDelta> next;
    parser->push(part, last, content, next);
    append_tool_calls(calls, std::move(next));
  };
  for (size_t at = 0; at < text.size(); at += piece) push(text.substr(at, piece), false);
  push("", true);
  for (const polylora::ToolCallDelta& call : calls) content += "\n" + call.name + "(" + call.arguments + ")";
  return content;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using enum polylora::ToolCallFormat;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto format : {kHermes, kLlama3, kMistral, kList})
    if (read(format, text, 1) != read(format, text, size + 1)) std::abort();
  return 0;
}
