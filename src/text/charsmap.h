// SentencePiece's table of replacements ("precompiled_charsmap" of tokenizer.json, tokenizer.model and GGUF).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// Byte strings and what replaces them. Immutable and thread-safe.
class Charsmap {
 public:
  /// `blob`: the size in bytes of a double-array trie as a little-endian u32, the trie (units of
  /// darts-clone, little-endian u32), the replacements with a NUL behind each. Throws kDataCorrupt for one
  /// that is cut off, leads outside itself, or would replace text with what is not UTF-8.
  explicit Charsmap(std::string_view blob);

  /// What replaces the shortest key that `text` begins with; none where no key does. Empty is a replacement.
  std::optional<std::string_view> find(std::string_view text) const;

 private:
  void check() const;
  std::string_view replacement_at(size_t offset) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace polylora
