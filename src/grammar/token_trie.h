// A vocabulary as a trie over bytes, so that tokens that begin alike are looked at once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace polylora::grammar {

/// Immutable. Nodes lie in depth-first order: what is below a node follows it, up to its `end`.
class TokenTrie {
 public:
  struct Node {
    uint32_t end = 0;           // the node after everything below this one
    uint32_t tokens_begin = 0;  // into tokens(), to the next node's
    int32_t token = 0;          // the first of its tokens; past the masks' bits when it has none
    uint8_t byte = 0;
    uint8_t depth = 0;  // bytes before this one
  };
  static constexpr size_t kMaxTokenBytes = 255;

  /// `bytes(id)`: what a token adds to a text; empty for one that no text may have, such as a special token.
  /// Tokens longer than kMaxTokenBytes are left out.
  TokenTrie(int vocab_size, const std::function<std::string(int32_t)>& bytes);

  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  /// Of the node alone, not of what is below it.
  std::span<const int32_t> tokens(size_t node) const {
    return std::span(tokens_).subspan(nodes_[node].tokens_begin,
                                      nodes_[node + 1].tokens_begin - nodes_[node].tokens_begin);
  }
  /// Empty for tokens that are not in the trie.
  const std::string& bytes(int32_t token) const { return bytes_[static_cast<size_t>(token)]; }
  int vocab_size() const { return static_cast<int>(bytes_.size()); }
  /// Words of a mask with one bit per token.
  size_t mask_words() const { return (bytes_.size() + 63) / 64; }

 private:
  std::vector<Node> nodes_;  // and one more at the end
  std::vector<int32_t> tokens_;
  std::vector<std::string> bytes_;  // by token
};

}  // namespace polylora::grammar
