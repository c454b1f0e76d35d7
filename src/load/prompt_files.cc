// Prompts from files: custom_prompts and sharegpt_prompts of load/bench_prompts.h.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "load/bench_prompts.h"
#include "load/random_stream.h"

namespace polylora {
namespace {

using nlohmann::json;

constexpr uint64_t kOrder = 3, kRepeats = 4;

constexpr int kMinTokens = 4, kMaxPrompt = 1024, kMaxTotal = 2048;  // vLLM's bounds for ShareGPT
constexpr size_t kBytesPerToken = 4;

/// Shuffles as the options say and brings the prompts to `count` as far as possible.
std::vector<BenchPrompt> select(std::vector<BenchPrompt> prompts, const PromptFileOptions& options) {
  if (prompts.empty()) fail(ErrorCode::kDataCorrupt, "{} holds no usable prompt", options.path.string());
  if (options.shuffle) RandomStream(options.seed, kOrder).shuffle(prompts);
  const auto wanted = static_cast<size_t>(options.count), available = prompts.size();
  if (wanted < available) prompts.resize(wanted);
  RandomStream repeats(options.seed, kRepeats);
  while (options.oversample && prompts.size() < wanted) {
    BenchPrompt again = prompts[repeats.below(available)];
    prompts.push_back(std::move(again));
  }
  return prompts;
}

BenchPrompt custom_prompt(std::string_view line, const PromptFileOptions& options, const std::string& where) {
  const json row = json::parse(line, nullptr, false);
  if (!row.is_object() || !row.contains("prompt") || !row["prompt"].is_string())
    fail(ErrorCode::kDataCorrupt, "{}: expected a JSON object with a string \"prompt\"", where);
  BenchPrompt prompt{.content = row["prompt"].get<std::string>(), .max_tokens = options.output_len};
  if (options.output_len >= 0) return prompt;
  const auto tokens = row.find("output_tokens");
  if (tokens == row.end() || !tokens->is_number_unsigned() || *tokens == 0u || *tokens > (1u << 30))
    fail(ErrorCode::kDataCorrupt, "{}: \"output_tokens\" is missing, and no output length was given", where);
  prompt.max_tokens = tokens->get<int>();
  return prompt;
}

int count_tokens(const std::string& text, const Tokenizer* tokenizer) {
  const size_t count = tokenizer != nullptr ? tokenizer->encode(text, true).size()
                                            : (text.size() + kBytesPerToken - 1) / kBytesPerToken;
  return static_cast<int>(std::min<size_t>(count, 1 << 30));
}

const std::string* turn_text(const json& turns, size_t index) {
  const json& turn = turns[index];
  if (!turn.is_object()) return nullptr;
  const auto value = turn.find("value");
  return value != turn.end() && value->is_string() ? &value->get_ref<const std::string&>() : nullptr;
}

/// Nothing when the conversation is not one that vLLM would take.
void add_conversation(const json& entry, const PromptFileOptions& options, const Tokenizer* tokenizer,
                      std::vector<BenchPrompt>& prompts) {
  if (!entry.is_object() || !entry.contains("conversations")) return;
  const json& turns = entry["conversations"];
  if (!turns.is_array() || turns.size() < 2) return;
  const std::string *question = turn_text(turns, 0), *answer = turn_text(turns, 1);
  if (question == nullptr || answer == nullptr) return;
  const bool fixed = options.output_len >= 0;
  const int input = count_tokens(*question, tokenizer);
  const int output = fixed ? options.output_len : count_tokens(*answer, tokenizer);
  if (input < kMinTokens || input > kMaxPrompt || input + output > kMaxTotal) return;
  if (!fixed && output < kMinTokens) return;
  prompts.push_back({.content = *question, .tokens = input, .max_tokens = output});
}

}  // namespace

std::vector<BenchPrompt> custom_prompts(const PromptFileOptions& options) {
  const std::string text = read_text_file(options.path);
  std::vector<BenchPrompt> prompts;
  std::string_view rest = text;
  for (int line_number = 1; !rest.empty(); ++line_number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    prompts.push_back(custom_prompt(line, options, fmt::format("{}:{}", options.path.string(), line_number)));
  }
  return select(std::move(prompts), options);
}

std::vector<BenchPrompt> sharegpt_prompts(const PromptFileOptions& options, const Tokenizer* tokenizer) {
  const json entries = json::parse(read_text_file(options.path), nullptr, false);
  if (!entries.is_array())
    fail(ErrorCode::kDataCorrupt, "{}: expected a JSON list of conversations", options.path.string());
  std::vector<size_t> order(entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (options.shuffle) RandomStream(options.seed, kOrder).shuffle(order);
  PromptFileOptions ordered = options;
  ordered.shuffle = false;
  std::vector<BenchPrompt> prompts;
  for (const size_t index : order) {  // only as many as are needed are tokenised
    if (prompts.size() == static_cast<size_t>(options.count)) break;
    add_conversation(entries[index], options, tokenizer, prompts);
  }
  return select(std::move(prompts), ordered);
}

}  // namespace polylora
