// What tokens an output may go on with, so that it becomes a text of a grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/configurations.h"
#include "grammar/token_trie.h"

namespace polylora::grammar {

/// One bit per token, token t in bit t % 64 of word t / 64.
using TokenMask = std::vector<uint64_t>;

/// A grammar made ready for a vocabulary. Thread-safe: requests with the same grammar share what was computed
/// for it. Holds at most the automaton and about kMaxMaskBytes + 2 * Configurations::kMaxBytes.
class CompiledGrammar {
 public:
  /// Throws what Automaton does.
  CompiledGrammar(const Grammar& grammar, std::shared_ptr<const TokenTrie> trie);

  static constexpr size_t kMaxMaskBytes = size_t{4} << 20;

  /// What it holds now.
  struct Usage {
    size_t masks = 0;  // configurations whose mask is known
    size_t bytes = 0;  // of masks, configurations and the automaton
  };
  Usage usage() const;

 private:
  friend class Matcher;

  /// Configurations with the masks of those that were asked for. Once full, a fresh one takes its place;
  /// matchers that still hold the old one move over with their next step.
  struct Cache {
    explicit Cache(const Automaton& automaton) : configurations(automaton) {}
    Configurations configurations;
    std::unordered_map<Configurations::Id, std::shared_ptr<const TokenMask>> masks;
    size_t mask_bytes = 0;
  };

  std::shared_ptr<const TokenMask> find_mask(Cache& cache, Configurations::Id id) const;

  const Automaton automaton_;
  const std::shared_ptr<const TokenTrie> trie_;
  mutable std::mutex mutex_;
  std::shared_ptr<Cache> cache_;
};

/// One output on its way through a grammar. What it allows depends on its tokens only. For one thread at a
/// time.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<CompiledGrammar> grammar);

  /// The tokens that may come next; none when the output must end, or the grammar needs more memory for a
  /// step than it may have. Special tokens are never among them.
  std::shared_ptr<const TokenMask> allowed();

  bool may_end() const;
  /// The output is complete and nothing may follow.
  bool must_end() const;

  /// Takes a token; false, and nothing changes, when it was not allowed.
  bool advance(int32_t token);

 private:
  /// Runs `step` on the grammar's cache, and once more on a fresh one when it found no room.
  template <typename Step>
  bool with_room(const Step& step);
  void move_to(std::shared_ptr<CompiledGrammar::Cache> cache);

  std::shared_ptr<CompiledGrammar> grammar_;
  std::shared_ptr<CompiledGrammar::Cache> cache_;
  Configurations::Id at_;
};

}  // namespace polylora::grammar
