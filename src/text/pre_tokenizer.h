// Pre-tokenizers of tokenizer.json: they cut a text into the words that the model then tokenizes one by one.
// Immutable and thread-safe.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace polylora {

/// A text cut into words: ranges of one buffer, in order. A step may cut ranges, drop them or rewrite the
/// buffer.
struct Words {
  struct Range {
    size_t begin = 0;
    size_t end = 0;
    bool at_text_start = false;  // begins where the caller's whole text begins (Metaspace asks)
  };
  std::string text;  // valid UTF-8
  std::vector<Range> ranges;

  std::string_view operator[](size_t i) const {
    return std::string_view(text).substr(ranges[i].begin, ranges[i].end - ranges[i].begin);
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Words& words) const = 0;
};

/// Null for a null component. Throws kUnsupported naming a type it does not know.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& component);

}  // namespace polylora
