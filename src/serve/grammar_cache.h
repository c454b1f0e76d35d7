// Grammars ready for the served vocabulary, shared by the requests that ask for the same.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "engine/token_constraint.h"
#include "grammar/matcher.h"
#include "serve/structured_output.h"
#include "text/tokenizer.h"

namespace polylora {

/// Thread-safe. Keeps the kMaxGrammars that were used last, each within CompiledGrammar's bounds.
class GrammarCache {
 public:
  static constexpr size_t kMaxGrammars = 16;

  /// `tokenizer` outlives the cache; null: compile() throws.
  explicit GrammarCache(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  /// Throws a 400 for what cannot be made into a grammar, and where there is no tokenizer. Not for the
  /// engine's thread: a large schema takes some milliseconds.
  std::shared_ptr<grammar::CompiledGrammar> compile(const StructuredOutput& wish);

 private:
  using Entry = std::pair<std::string, std::shared_ptr<grammar::CompiledGrammar>>;
  std::shared_ptr<grammar::CompiledGrammar> find(const std::string& key);
  std::shared_ptr<const grammar::TokenTrie> trie();

  const Tokenizer* tokenizer_;
  std::once_flag trie_made_;
  std::shared_ptr<const grammar::TokenTrie> trie_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
};

/// The texts of its tokens. Special tokens are no text: a grammar never allows them.
std::shared_ptr<const grammar::TokenTrie> make_token_trie(const Tokenizer& tokenizer);

/// A request's own state in a grammar.
std::shared_ptr<TokenConstraint> make_constraint(std::shared_ptr<grammar::CompiledGrammar> grammar);

}  // namespace polylora
