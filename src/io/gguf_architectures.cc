#include "io/gguf_architectures.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "llama", "LlamaForCausalLM", true},
    {"llama", "mistral", "MistralForCausalLM", true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", false},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", false},
    {"phi3", "phi3", "Phi3ForCausalLM", false},
    {"llama", "mixtral", "MixtralForCausalLM", true},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", false},
};

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() {
  return kArchitectures;
}

const GgufArchitecture& gguf_architecture_named(std::string_view name, std::string_view where) {
  std::vector<std::string_view> known;
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.name == name) return row;
    if (std::find(known.begin(), known.end(), row.name) == known.end()) known.push_back(row.name);
  }
  fail(ErrorCode::kUnsupported, "{}: architecture '{}' is not supported; known: {}", where, name,
       fmt::join(known, ", "));
}

const GgufArchitecture& gguf_architecture_of(std::string_view model_type) {
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.model_type == model_type) return row;
  }
  fail(ErrorCode::kUnsupported, "model_type '{}' has no GGUF form", model_type);
}

}  // namespace polylora
