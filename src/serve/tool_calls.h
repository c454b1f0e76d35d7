// Tool calls in a model's output, found while it is being written.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// What is new of one call. The first piece of a call has its id and name; arguments are JSON text, in
/// pieces.
struct ToolCallDelta {
  int index = 0;
  std::string id;
  std::string name;
  std::string arguments;
};

/// Adds `next` to what is not yet sent; pieces of one call become one.
void append_tool_calls(std::vector<ToolCallDelta>& calls, std::vector<ToolCallDelta>&& next);

/// How a model writes calls.
enum class ToolCallFormat : uint8_t {
  kHermes,   // <tool_call>{"name": …, "arguments": …}</tool_call>   (Hermes, Qwen)
  kLlama3,   // {"name": …, "parameters": …}; …   as the whole output, <|python_tag|> or not
  kMistral,  // [TOOL_CALLS][{"name": …, "arguments": …}, …]   or   [TOOL_CALLS]name{…}
  kList,     // [{"name": …, "parameters": …}, …]: what tool_choice "required" makes any model write
};

/// hermes, llama3_json and mistral, as vLLM's --tool-call-parser names them; absent for another name.
std::optional<ToolCallFormat> tool_call_format(std::string_view name);

/// Splits the text of one choice. Text that turns out not to be a call is content; text after calls is
/// dropped. What comes out does not depend on how the text is cut into pieces. Not thread-safe.
class ToolCallParser {
 public:
  virtual ~ToolCallParser() = default;

  /// Moves what `text` adds to `content` and `calls`. `last`: nothing follows; what was held back comes out.
  virtual void push(std::string_view text, bool last, std::string& content,
                    std::vector<ToolCallDelta>& calls) = 0;
  /// Whether a call was found.
  virtual bool called() const = 0;
};

/// `parallel`: false keeps the first call only (parallel_tool_calls).
std::unique_ptr<ToolCallParser> make_tool_call_parser(ToolCallFormat format, bool parallel);

/// The whole text is the arguments of a call of `name`.
std::unique_ptr<ToolCallParser> make_named_call_parser(std::string name);

}  // namespace polylora
