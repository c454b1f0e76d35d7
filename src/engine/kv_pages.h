// Who owns which page of the KV cache, and which pages hold a prefix that others may reuse.
//
// A page is free, or held by one or more sequences. A full page can be sealed: it becomes a block of the
// prefix cache, found again by (adapter generation, block before it, its token ids). Sealed pages survive
// their last holder until their space is needed, least recently used first.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace polylora {

/// The pages of one sequence, in order of position. Filled and emptied by KvPages only.
struct PageTable {
  std::vector<int32_t> pages;
  int sealed = 0;           // leading pages whose block is known
  uint64_t last_block = 0;  // block of the last sealed page; 0: none
};

/// Bookkeeping only: no tensors, no threads.
class KvPages {
 public:
  /// What identifies a block. Blocks are numbered, so that equality of `parent` is equality of all that
  /// precedes; a hash alone could collide and serve the wrong keys and values.
  struct BlockKey {
    uint64_t adapter = 0;
    uint64_t parent = 0;
    std::span<const int32_t> tokens;  // kKvPageSize of them
  };
  using HashFn = uint64_t (*)(const BlockKey&);
  static uint64_t hash_block(const BlockKey& key);

  KvPages(int pages, bool prefix_caching, HashFn hash = hash_block);

  int total() const { return static_cast<int>(pages_.size()); }
  int available() const { return available_; }  // not held; may still be sealed

  /// Pages needed for `tokens` tokens.
  static int pages_for(int tokens);

  /// Fills an empty table with the longest sealed prefix of `tokens`, never all of them: the last token has
  /// to be computed for its logits. Returns the number of tokens covered.
  int match(uint64_t adapter, std::span<const int32_t> tokens, PageTable& table);

  /// Extends the table to hold `tokens` tokens. False, and no change, when there are not enough pages.
  bool grow(PageTable& table, int tokens);

  /// Tells that the keys and values of tokens[0, computed) are written: full pages become blocks.
  void seal(uint64_t adapter, std::span<const int32_t> tokens, int computed, PageTable& table);

  /// Gives all pages back. The end of the sequence is forgotten first, since beginnings are shared more.
  void release(PageTable& table);

  /// Throws kInternal when the bookkeeping contradicts itself or `tables`, which must be all that hold pages.
  void check_integrity(std::span<const PageTable* const> tables) const;

 private:
  static constexpr int32_t kNone = -1;

  struct Page {
    int holders = 0;
    uint64_t block = 0;  // 0: not sealed
    uint64_t adapter = 0;
    uint64_t parent = 0;
    uint64_t hash = 0;
    int32_t older = kNone, newer = kNone;  // neighbours in the reuse list
  };

  Page& at(int32_t page) { return pages_[static_cast<size_t>(page)]; }
  const Page& at(int32_t page) const { return pages_[static_cast<size_t>(page)]; }
  std::span<int32_t> tokens_of(int32_t page);
  std::span<const int32_t> tokens_of(int32_t page) const;

  int32_t find(const BlockKey& key) const;  // kNone: not cached
  int32_t take_free_page();
  void hold(int32_t page);
  void let_go(int32_t page);
  void unseal(int32_t page);
  void append_to_reuse_list(int32_t page);
  void remove_from_reuse_list(int32_t page);

  bool prefix_caching_;
  HashFn hash_;
  std::vector<Page> pages_;
  std::vector<int32_t> tokens_;              // [pages, kKvPageSize], of sealed pages
  std::vector<int32_t> blank_;               // neither held nor sealed
  int32_t oldest_ = kNone, newest_ = kNone;  // sealed but not held, in order of release
  int available_ = 0;
  uint64_t blocks_made_ = 0;
  std::unordered_map<uint64_t, int32_t> sealed_;  // hash -> page
};

}  // namespace polylora
