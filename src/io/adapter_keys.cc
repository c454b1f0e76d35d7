#include "io/adapter_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace polylora {
namespace {

using Words = std::vector<std::string_view>;

/// The ends of PEFT's tensor names, and what they mean. The first that fits wins.
struct Ending {
  Words words;
  AdapterRole role;
};

const std::vector<Ending>& endings() {
  static const std::vector<Ending> list = {
      {{"lora_A", "weight"}, AdapterRole::kLoraA},
      {{"lora_B", "weight"}, AdapterRole::kLoraB},
      {{"lora_B", "bias"}, AdapterRole::kLoraBias},
      {{"lora_embedding_A"}, AdapterRole::kEmbeddingA},
      {{"lora_embedding_B"}, AdapterRole::kEmbeddingB},
      {{"lora_magnitude_vector"}, AdapterRole::kMagnitude},
      {{"lora_magnitude_vector", "weight"}, AdapterRole::kMagnitude},
      {{"base_layer", "weight"}, AdapterRole::kWeight},
      {{"base_layer", "bias"}, AdapterRole::kBias},
      {{"modules_to_save", "weight"}, AdapterRole::kWeight},
      {{"modules_to_save", "bias"}, AdapterRole::kBias},
      {{"weight"}, AdapterRole::kWeight},
      {{"bias"}, AdapterRole::kBias},
  };
  return list;
}

Words split(std::string_view key) {
  Words words;
  for (size_t begin = 0;;) {
    const size_t end = key.find('.', begin);
    words.push_back(key.substr(begin, end - begin));
    if (end == std::string_view::npos) return words;
    begin = end + 1;
  }
}

/// The adapter's name stands behind the word that makes a tensor part of an adapter.
bool precedes_adapter_name(std::string_view word) {
  return word.starts_with("lora_") || word == "modules_to_save";
}

void remove_adapter_name(Words& words) {
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] != "default" || !precedes_adapter_name(words[i - 1])) continue;
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}

void remove_prefix(Words& words) {
  if (words.size() > 2 && words[0] == "base_model" && words[1] == "model")
    words.erase(words.begin(), words.begin() + 2);
}

bool ends_with(const Words& words, const Words& ending) {
  return words.size() > ending.size() && std::equal(ending.rbegin(), ending.rend(), words.rbegin());
}

}  // namespace

std::optional<AdapterKey> parse_adapter_key(std::string_view key) {
  Words words = split(key);
  remove_prefix(words);
  remove_adapter_name(words);
  for (const Ending& ending : endings()) {
    if (!ends_with(words, ending.words)) continue;
    words.resize(words.size() - ending.words.size());
    return AdapterKey{fmt::format("{}", fmt::join(words, ".")), ending.role};
  }
  return std::nullopt;
}

}  // namespace polylora
