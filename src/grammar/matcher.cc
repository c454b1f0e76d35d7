#include "grammar/matcher.h"

#include <array>
#include <utility>

namespace polylora::grammar {
namespace {

void allow(TokenMask& mask, int32_t token) {
  mask[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}

}  // namespace

CompiledGrammar::CompiledGrammar(const Grammar& grammar, std::shared_ptr<const TokenTrie> trie)
    : automaton_(grammar), trie_(std::move(trie)), cache_(std::make_shared<Cache>(automaton_)) {}

CompiledGrammar::Usage CompiledGrammar::usage() const {
  const std::scoped_lock lock(mutex_);
  return {.masks = cache_->masks.size(),
          .bytes = automaton_.bytes() + cache_->configurations.bytes() + cache_->mask_bytes};
}

/// Null when the configurations have no room for a step on the way.
std::shared_ptr<const TokenMask> CompiledGrammar::find_mask(Cache& cache, Configurations::Id id) const {
  if (const auto found = cache.masks.find(id); found != cache.masks.end()) return found->second;
  auto mask = std::make_shared<TokenMask>(trie_->mask_words() + 1);    // the last: of nodes without a token
  std::array<Configurations::Id, TokenTrie::kMaxTokenBytes + 1> path;  // by depth
  path[0] = id;
  const std::span<const TokenTrie::Node> nodes = trie_->nodes();
  for (size_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const Configurations::Id next = cache.configurations.next(path[node.depth], node.byte);
    if (next == Configurations::kUnknown) return nullptr;
    if (next == Configurations::kDead) {
      i = node.end;
      continue;
    }
    path[size_t{node.depth} + 1] = next;
    allow(*mask, node.token);  // no branch: whether a node has a token cannot be foretold
    if (const auto tokens = trie_->tokens(i); tokens.size() > 1) [[unlikely]] {
      for (const int32_t token : tokens) allow(*mask, token);
    }
    ++i;
  }
  mask->pop_back();
  const size_t bytes = mask->size() * sizeof(uint64_t);
  if (cache.mask_bytes + bytes > kMaxMaskBytes) {
    cache.masks.clear();
    cache.mask_bytes = 0;
  }
  cache.mask_bytes += bytes;
  cache.masks.emplace(id, mask);
  return mask;
}

Matcher::Matcher(std::shared_ptr<CompiledGrammar> grammar) : grammar_(std::move(grammar)) {
  const std::scoped_lock lock(grammar_->mutex_);
  cache_ = grammar_->cache_;
  at_ = cache_->configurations.start();
}

void Matcher::move_to(std::shared_ptr<CompiledGrammar::Cache> cache) {
  if (cache == cache_) return;
  at_ = cache->configurations.import(cache_->configurations, at_);
  cache_ = std::move(cache);
}

template <typename Step>
bool Matcher::with_room(const Step& step) {
  move_to(grammar_->cache_);
  if (step()) return true;
  grammar_->cache_ = std::make_shared<CompiledGrammar::Cache>(grammar_->automaton_);
  move_to(grammar_->cache_);
  return step();
}

std::shared_ptr<const TokenMask> Matcher::allowed() {
  const std::scoped_lock lock(grammar_->mutex_);
  std::shared_ptr<const TokenMask> mask;
  const bool fits = with_room([&] { return (mask = grammar_->find_mask(*cache_, at_)) != nullptr; });
  if (fits) return mask;
  return std::make_shared<TokenMask>(grammar_->trie_->mask_words());
}

bool Matcher::may_end() const {
  const std::scoped_lock lock(grammar_->mutex_);
  return cache_->configurations.may_end(at_);
}

bool Matcher::must_end() const {
  const std::scoped_lock lock(grammar_->mutex_);
  return cache_->configurations.must_end(at_);
}

bool Matcher::advance(int32_t token) {
  if (token < 0 || token >= grammar_->trie_->vocab_size()) return false;
  const std::string& bytes = grammar_->trie_->bytes(token);
  if (bytes.empty()) return false;
  const std::scoped_lock lock(grammar_->mutex_);
  Configurations::Id next = Configurations::kDead;
  const bool fits = with_room([&] {
    next = at_;
    for (const char byte : bytes) {
      next = cache_->configurations.next(next, static_cast<uint8_t>(byte));
      if (next == Configurations::kUnknown || next == Configurations::kDead) break;
    }
    return next != Configurations::kUnknown;
  });
  if (!fits || next == Configurations::kDead) return false;
  at_ = next;
  return true;
}

}  // namespace polylora::grammar
