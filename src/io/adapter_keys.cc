#include "io/adapter_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
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

void remove_all(Words& words, std::initializer_list<std::string_view> unwanted) {
  std::erase_if(words, [&](std::string_view word) {
    return std::find(unwanted.begin(), unwanted.end(), word) != unwanted.end();
  });
}

void remove_prefix(Words& words, std::initializer_list<std::string_view> prefix) {
  if (words.size() > prefix.size() && std::equal(prefix.begin(), prefix.end(), words.begin()))
    words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(prefix.size()));
}

std::string join(const Words& words) {
  return fmt::format("{}", fmt::join(words, "."));
}

bool ends_with(const Words& words, const Words& ending) {
  return words.size() > ending.size() && std::equal(ending.rbegin(), ending.rend(), words.rbegin());
}

}  // namespace

std::optional<AdapterKey> parse_adapter_key(std::string_view key) {
  Words words = split(key);
  remove_all(words, {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"});
  remove_prefix(words, {"module"});
  remove_prefix(words, {"base_model", "model"});
  remove_adapter_name(words);
  remove_all(words,
             {"base_layer", "modules_to_save"});  // stand before the weight of a module that PEFT wraps
  for (const Ending& ending : endings()) {
    if (!ends_with(words, ending.words)) continue;
    words.resize(words.size() - ending.words.size());
    return AdapterKey{join(words), ending.role};
  }
  return std::nullopt;
}

std::string text_module_path(std::string_view module_path) {
  Words words = split(module_path);
  remove_all(words, {"language_model", "text_model"});
  return join(words);
}

}  // namespace polylora
