#include "serve/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace polylora {
namespace {

struct Found {
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Found&) const = default;
};

void PrintTo(const Found& found, std::ostream* out) {
  *out << "content '" << found.content << "'";
  for (const auto& [name, arguments] : found.calls) *out << ", " << name << " '" << arguments << "'";
}

/// Reads `text` in pieces of `piece` bytes; 0: of random ones.
Found read(ToolCallParser& parser, std::string_view text, size_t piece, uint64_t seed = 0) {
  std::mt19937_64 random(seed);
  Found found;
  std::vector<ToolCallDelta> deltas;
  for (size_t at = 0; at < text.size();) {
    const size_t size = piece > 0 ? piece : 1 + random() % 7;
    std::vector<ToolCallDelta> next;
    parser.push(text.substr(at, size), false, found.content, next);
    append_tool_calls(deltas, std::move(next));
    at += size;
  }
  std::vector<ToolCallDelta> next;
  parser.push("", true, found.content, next);
  append_tool_calls(deltas, std::move(next));
  int index = 0;
  for (const ToolCallDelta& delta : deltas) {
    EXPECT_EQ(delta.index, index++);
    EXPECT_FALSE(delta.id.empty());
    found.calls.emplace_back(delta.name, delta.arguments);
  }
  EXPECT_EQ(parser.called(), !found.calls.empty());
  return found;
}

struct Case {
  ToolCallFormat format;
  const char* text;
  Found expected;
};

const std::vector<Case>& cases() {
  using enum ToolCallFormat;
  static const std::vector<Case> all = {
      {kHermes,
       "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"}\"]}}\n</tool_call>",
       {"", {{"f", "{\"x\": [1, \"}\"]}"}}}},
      {kHermes,
       "Let me see. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"arguments\": "
       "{\"a\": 1}, \"name\": \"g\"}</tool_call> bye",
       {"Let me see. ", {{"f", "{}"}, {"g", "{\"a\": 1}"}}}},
      {kHermes, "no call, but a < b and <tool", {"no call, but a < b and <tool", {}}},
      {kHermes, "<tool_call>\nnot json</tool_call>", {"<tool_call>\nnot json</tool_call>", {}}},
      {kHermes, "<tool_call>{\"nome\": 1}</tool_call>", {"<tool_call>{\"nome\": 1}</tool_call>", {}}},
      {kHermes, "<tool_call>{\"name\": \"f\"", {"<tool_call>{\"name\": \"f\"", {}}},
      {kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": ", {"", {{"f", "{\"x\": "}}}},
      {kHermes, "<tool_call>{\"name\": \"f\"}</tool_call>", {"", {{"f", "{}"}}}},
      {kHermes,
       "<tool_call>{\"name\": \"f\\u00e9\\\"\", \"arguments\": {\"s\": \"\\\"{\\\\\"}}",
       {"", {{"fé\"", "{\"s\": \"\\\"{\\\\\"}"}}}},
      {kLlama3, "{\"name\": \"f\", \"parameters\": {\"x\": 1}}", {"", {{"f", "{\"x\": 1}"}}}},
      {kLlama3,
       "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", "
       "\"parameters\": {\"y\": null}}",
       {"", {{"f", "{}"}, {"g", "{\"y\": null}"}}}},
      {kLlama3, "Sure: {\"name\": \"f\"}", {"Sure: {\"name\": \"f\"}", {}}},
      {kLlama3, "  {\"answer\": 42} it is", {"  {\"answer\": 42} it is", {}}},
      {kLlama3, "<|py", {"<|py", {}}},
      {kMistral,
       "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
       {"", {{"f", "{\"x\": 1}"}, {"g", "{}"}}}},
      {kMistral, "[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}]", {"", {{"f", "{}"}}}},
      {kMistral,
       "[TOOL_CALLS]get_it{\"x\": {\"y\": 2}}[TOOL_CALLS]stop{}",
       {"", {{"get_it", "{\"x\": {\"y\": 2}}"}, {"stop", "{}"}}}},
      {kMistral, "[1, 2] is a list", {"[1, 2] is a list", {}}},
      {kMistral, "[TOOL_CALLS] oh no", {"[TOOL_CALLS] oh no", {}}},
      {kList,
       "[{\"name\": \"f\", \"parameters\": {\"x\": 1}}, {\"name\": \"g\", \"parameters\": {}}]",
       {"", {{"f", "{\"x\": 1}"}, {"g", "{}"}}}},
      {kList, "", {"", {}}},
  };
  return all;
}

TEST(ToolCalls, AreFoundHoweverTheTextIsCut) {
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.text);
    for (const size_t piece : {size_t{1000}, size_t{1}, size_t{2}, size_t{5}})
      EXPECT_EQ(read(*make_tool_call_parser(one.format, true), one.text, piece), one.expected) << piece;
    for (uint64_t seed = 0; seed < 20; ++seed)
      EXPECT_EQ(read(*make_tool_call_parser(one.format, true), one.text, 0, seed), one.expected);
  }
}

TEST(ToolCalls, OnlyTheFirstWhenNotParallel) {
  const auto parser = make_tool_call_parser(ToolCallFormat::kList, false);
  const Found expected = {"", {{"f", "{}"}}};
  EXPECT_EQ(
      read(*parser, "[{\"name\": \"f\", \"parameters\": {}}, {\"name\": \"g\", \"parameters\": {}}]", 3),
      expected);
}

TEST(ToolCalls, AllOfTheTextIsTheArgumentsOfANamedCall) {
  const auto parser = make_named_call_parser("f");
  const Found expected = {"", {{"f", "{\"x\": 1}"}}};
  EXPECT_EQ(read(*parser, "{\"x\": 1}", 2), expected);
}

TEST(ToolCalls, ArgumentsArePassedOnAtOnce) {
  const auto parser = make_tool_call_parser(ToolCallFormat::kHermes, true);
  std::string content;
  std::vector<ToolCallDelta> calls;
  parser->push("<tool_call>{\"name\": \"f\", \"arguments\": {\"x\"", false, content, calls);
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].arguments, "{\"x\"");
}

TEST(ToolCalls, MistralIdsAreNineLettersAndDigits) {
  const auto parser = make_tool_call_parser(ToolCallFormat::kMistral, true);
  std::string content;
  std::vector<ToolCallDelta> calls;
  parser->push("[TOOL_CALLS]f{}", true, content, calls);
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].id.size(), 9u);
}

}  // namespace
}  // namespace polylora
