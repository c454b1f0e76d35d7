#include "engine/kv_pages.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/hash.h"
#include "ops/weight.h"

namespace polylora {

uint64_t KvPages::hash_block(const BlockKey& key) {
  const std::array<uint64_t, 2> chain = {key.adapter, key.parent};
  return hash_bytes(std::as_bytes(key.tokens), hash_bytes(std::as_bytes(std::span(chain))));
}

KvPages::KvPages(int pages, bool prefix_caching, HashFn hash)
    : prefix_caching_(prefix_caching),
      hash_(hash),
      pages_(static_cast<size_t>(pages)),
      tokens_(static_cast<size_t>(pages) * kKvPageSize),
      available_(pages) {
  blank_.reserve(pages_.size());
  for (int32_t page = pages - 1; page >= 0; --page) blank_.push_back(page);
  sealed_.reserve(pages_.size());
}

int KvPages::pages_for(int tokens) {
  return (tokens + kKvPageSize - 1) / kKvPageSize;
}

int KvPages::match(uint64_t adapter, std::span<const int32_t> tokens, PageTable& table) {
  check(table.pages.empty(), "a prefix is matched into an empty page table");
  if (!prefix_caching_) return 0;
  const int reusable = (static_cast<int>(tokens.size()) - 1) / kKvPageSize;
  for (; table.sealed < reusable; ++table.sealed) {
    const auto begin = static_cast<size_t>(table.sealed) * kKvPageSize;
    const int32_t page = find({adapter, table.last_block, tokens.subspan(begin, kKvPageSize)});
    if (page == kNone) break;
    hold(page);
    table.pages.push_back(page);
    table.last_block = at(page).block;
  }
  return table.sealed * kKvPageSize;
}

bool KvPages::grow(PageTable& table, int tokens) {
  const int missing = pages_for(tokens) - static_cast<int>(table.pages.size());
  if (missing > available_) return false;
  for (int i = 0; i < missing; ++i) table.pages.push_back(take_free_page());
  return true;
}

void KvPages::seal(uint64_t adapter, std::span<const int32_t> tokens, int computed, PageTable& table) {
  if (!prefix_caching_) return;
  for (; (table.sealed + 1) * kKvPageSize <= computed; ++table.sealed) {
    const auto index = static_cast<size_t>(table.sealed);
    const BlockKey key{adapter, table.last_block, tokens.subspan(index * kKvPageSize, kKvPageSize)};
    if (const int32_t known = find(key); known != kNone) {
      // Another sequence computed the same block first; ours stays private, but what follows may be shared.
      table.last_block = at(known).block;
      continue;
    }
    const int32_t id = table.pages[index];
    Page& page = at(id);
    page.hash = hash_(key);
    if (!sealed_.emplace(page.hash, id).second) return;  // a collision: the older block keeps the entry
    page.block = ++blocks_made_;
    page.adapter = key.adapter;
    page.parent = key.parent;
    std::copy(key.tokens.begin(), key.tokens.end(), tokens_of(id).begin());
    table.last_block = page.block;
  }
}

void KvPages::release(PageTable& table) {
  for (auto page = table.pages.rbegin(); page != table.pages.rend(); ++page) let_go(*page);
  table = PageTable();
}

std::span<int32_t> KvPages::tokens_of(int32_t page) {
  return {&tokens_[static_cast<size_t>(page) * kKvPageSize], kKvPageSize};
}

std::span<const int32_t> KvPages::tokens_of(int32_t page) const {
  return {&tokens_[static_cast<size_t>(page) * kKvPageSize], kKvPageSize};
}

int32_t KvPages::find(const BlockKey& key) const {
  const auto entry = sealed_.find(hash_(key));
  if (entry == sealed_.end()) return kNone;
  const Page& page = at(entry->second);
  const bool same = page.adapter == key.adapter && page.parent == key.parent &&
                    std::ranges::equal(tokens_of(entry->second), key.tokens);
  return same ? entry->second : kNone;
}

// Pages that hold nothing are used up before anything cached is thrown away.
int32_t KvPages::take_free_page() {
  int32_t page = oldest_;
  if (!blank_.empty()) {
    page = blank_.back();
    blank_.pop_back();
  } else {
    remove_from_reuse_list(page);
    unseal(page);
  }
  at(page).holders = 1;
  --available_;
  return page;
}

void KvPages::hold(int32_t page) {
  if (at(page).holders++ > 0) return;
  remove_from_reuse_list(page);
  --available_;
}

void KvPages::let_go(int32_t page) {
  if (--at(page).holders > 0) return;
  ++available_;
  if (at(page).block != 0) {
    append_to_reuse_list(page);
  } else {
    blank_.push_back(page);
  }
}

void KvPages::unseal(int32_t page) {
  sealed_.erase(at(page).hash);
  at(page) = Page();
}

void KvPages::append_to_reuse_list(int32_t page) {
  at(page).older = newest_;
  at(page).newer = kNone;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = page;
  newest_ = page;
}

void KvPages::remove_from_reuse_list(int32_t page) {
  const auto [older, newer] = std::pair(at(page).older, at(page).newer);
  (older == kNone ? oldest_ : at(older).newer) = newer;
  (newer == kNone ? newest_ : at(newer).older) = older;
  at(page).older = at(page).newer = kNone;
}

void KvPages::check_integrity(std::span<const PageTable* const> tables) const {
  std::vector<int> holders(pages_.size());
  for (const PageTable* table : tables) {
    for (const int32_t page : table->pages) ++holders[static_cast<size_t>(page)];
  }
  int unheld = 0;
  size_t sealed = 0;
  for (int32_t id = 0; id < total(); ++id) {
    const Page& page = at(id);
    check(page.holders == holders[static_cast<size_t>(id)], "a page counts its holders");
    unheld += page.holders == 0;
    if (page.block == 0) continue;
    ++sealed;
    const auto entry = sealed_.find(page.hash);
    check(entry != sealed_.end() && entry->second == id, "a sealed page can be found");
    check(page.hash == hash_({page.adapter, page.parent, tokens_of(id)}), "a sealed page kept its identity");
  }
  check(unheld == available_, "pages available");
  check(sealed == sealed_.size(), "sealed pages");

  size_t listed = 0;
  for (int32_t page = oldest_; page != kNone; page = at(page).newer, ++listed) {
    check(at(page).holders == 0 && at(page).block != 0, "a reusable page is sealed and not held");
    check(at(page).newer != kNone || page == newest_, "the reuse list ends at the newest page");
  }
  for (const int32_t page : blank_) {
    check(at(page).holders == 0 && at(page).block == 0, "a blank page is neither held nor sealed");
  }
  check(listed + blank_.size() == static_cast<size_t>(available_), "every free page is blank or reusable");
}

}  // namespace polylora
