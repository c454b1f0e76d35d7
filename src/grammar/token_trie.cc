#include "grammar/token_trie.h"

#include <algorithm>
#include <numeric>

namespace polylora::grammar {

TokenTrie::TokenTrie(int vocab_size, const std::function<std::string(int32_t)>& bytes) {
  for (int32_t id = 0; id < vocab_size; ++id) {
    bytes_.push_back(bytes(id));
    if (bytes_.back().size() > kMaxTokenBytes) bytes_.back().clear();
    if (!bytes_.back().empty()) tokens_.push_back(id);
  }
  // In order of their bytes, every token's path begins with what it shares with the one before.
  std::ranges::stable_sort(tokens_, {}, [this](int32_t id) -> const std::string& { return this->bytes(id); });
  std::vector<uint32_t> path;  // nodes from the root to the last token's
  const std::string* previous = nullptr;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& token = this->bytes(tokens_[i]);
    size_t shared = 0;
    if (previous != nullptr) {
      const auto [a, b] = std::ranges::mismatch(*previous, token);
      shared = static_cast<size_t>(a - previous->begin());
    }
    for (; path.size() > shared; path.pop_back())
      nodes_[path.back()].end = static_cast<uint32_t>(nodes_.size());
    for (size_t depth = shared; depth < token.size(); ++depth) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({.tokens_begin = static_cast<uint32_t>(i),
                        .byte = static_cast<uint8_t>(token[depth]),
                        .depth = static_cast<uint8_t>(depth)});
    }
    previous = &token;
  }
  for (const uint32_t node : path) nodes_[node].end = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back({.tokens_begin = static_cast<uint32_t>(tokens_.size())});
  const auto no_token = static_cast<int32_t>(mask_words() * 64);
  for (size_t i = 0; i + 1 < nodes_.size(); ++i)
    nodes_[i].token = tokens(i).empty() ? no_token : tokens(i).front();
}

}  // namespace polylora::grammar
