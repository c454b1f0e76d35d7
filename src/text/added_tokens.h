// Added tokens: spellings that are found in a text before anything else looks at it ("<|im_start|>").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/normalizer.h"

namespace polylora {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;
  bool normalized = true;    // look for it in the normalised text
  bool single_word = false;  // only between word boundaries
  bool lstrip = false;       // swallows the spaces before it
  bool rstrip = false;       // … and after it
};

/// A stretch of text: plain (id < 0) or one added token.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  int32_t id = -1;
};

/// Leftmost-longest search for a set of spellings. Immutable after the adds, then thread-safe.
class TokenMatcher {
 public:
  void add(std::string_view spelling, const AddedToken* token);
  bool empty() const { return nodes_.size() <= 1; }
  /// Cuts `text` into plain stretches and tokens, in order; covers all of it.
  std::vector<TextSpan> cut(std::string_view text) const;

 private:
  struct Node {
    std::map<uint8_t, uint32_t> next;
    const AddedToken* token = nullptr;
  };
  const AddedToken* longest(std::string_view text, size_t begin, size_t& end) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  bool starts_[256] = {};
};

/// The tokenizer's added tokens. Immutable after build(), then thread-safe.
class AddedTokens {
 public:
  /// Adds a token or replaces the one with its id. Throws kDataCorrupt / kUnsupported for absurd ones.
  void add(AddedToken token);
  void mark_special(std::string_view content);
  void build(const Normalizer* normalizer);

  const AddedToken* by_id(int32_t id) const;
  const AddedToken* by_content(std::string_view content) const;
  int32_t max_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }
  const TokenMatcher& raw() const { return raw_; }
  const TokenMatcher& normalized() const { return normalized_; }

 private:
  std::map<int32_t, AddedToken> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  TokenMatcher raw_, normalized_;
};

}  // namespace polylora
