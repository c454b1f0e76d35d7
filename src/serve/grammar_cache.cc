#include "serve/grammar_cache.h"

#include <algorithm>

#include "serve/api_error.h"

namespace polylora {

namespace {

class GrammarConstraint final : public TokenConstraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<grammar::CompiledGrammar> grammar)
      : matcher_(std::move(grammar)) {}

  std::shared_ptr<const TokenMask> allowed() override { return matcher_.allowed(); }
  bool may_end() const override { return matcher_.may_end(); }
  bool advance(int32_t token) override { return matcher_.advance(token); }

 private:
  grammar::Matcher matcher_;
};

}  // namespace

std::shared_ptr<grammar::CompiledGrammar> GrammarCache::compile(const StructuredOutput& wish) {
  if (tokenizer_ == nullptr)
    fail(ErrorCode::kUnsupported,
         "This server runs without a tokenizer (--skip-tokenizer-init): structured output is not available.");
  std::string key = wish.key();
  if (auto known = find(key)) return known;
  auto compiled = std::make_shared<grammar::CompiledGrammar>(make_grammar(wish), trie());
  const std::scoped_lock lock(mutex_);
  entries_.emplace_front(std::move(key), compiled);
  if (entries_.size() > kMaxGrammars) entries_.pop_back();
  return compiled;
}

std::shared_ptr<grammar::CompiledGrammar> GrammarCache::find(const std::string& key) {
  const std::scoped_lock lock(mutex_);
  const auto found = std::ranges::find(entries_, key, &Entry::first);
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  return entries_.front().second;
}

std::shared_ptr<const grammar::TokenTrie> GrammarCache::trie() {
  std::call_once(trie_made_, [this] { trie_ = make_token_trie(*tokenizer_); });
  return trie_;
}

std::shared_ptr<const grammar::TokenTrie> make_token_trie(const Tokenizer& tokenizer) {
  return std::make_shared<grammar::TokenTrie>(tokenizer.vocab_size(), [&tokenizer](int32_t id) {
    return tokenizer.is_special(id) ? std::string() : tokenizer.token_bytes(id);
  });
}

std::shared_ptr<TokenConstraint> make_constraint(std::shared_ptr<grammar::CompiledGrammar> grammar) {
  return std::make_shared<GrammarConstraint>(std::move(grammar));
}

}  // namespace polylora
