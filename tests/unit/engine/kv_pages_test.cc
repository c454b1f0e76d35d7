#include "engine/kv_pages.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "base/error.h"
#include "ops/weight.h"

namespace polylora {
namespace {

std::vector<int32_t> iota(int count, int first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

/// Computes a whole sequence and gives its pages back.
void run_through(KvPages& pages, uint64_t adapter, const std::vector<int32_t>& tokens) {
  PageTable table;
  pages.match(adapter, tokens, table);
  ASSERT_TRUE(pages.grow(table, static_cast<int>(tokens.size())));
  pages.seal(adapter, tokens, static_cast<int>(tokens.size()), table);
  pages.release(table);
}

TEST(KvPages, GrowsAllOrNothing) {
  KvPages pages(4, true);
  PageTable table;
  EXPECT_TRUE(pages.grow(table, 17));
  EXPECT_EQ(table.pages.size(), 2u);
  EXPECT_TRUE(pages.grow(table, 32));
  EXPECT_EQ(table.pages.size(), 2u);
  EXPECT_FALSE(pages.grow(table, 65));
  EXPECT_EQ(table.pages.size(), 2u);
  EXPECT_EQ(pages.available(), 2);
  pages.release(table);
  EXPECT_EQ(pages.available(), 4);
}

TEST(KvPages, ReusesFullPagesButNeverTheWholePrompt) {
  KvPages pages(16, true);
  const auto tokens = iota(48);
  run_through(pages, 1, tokens);
  PageTable table;
  EXPECT_EQ(pages.match(1, tokens, table), 32) << "the last token must be computed";
  pages.release(table);
  EXPECT_EQ(pages.match(1, iota(49), table), 48);
  pages.release(table);
  EXPECT_EQ(pages.match(2, iota(49), table), 0) << "another adapter, other keys and values";
  EXPECT_EQ(pages.match(1, iota(49, 1), table), 0);
}

TEST(KvPages, BlocksOfConcurrentTwinsStayConnected) {
  KvPages pages(16, true);
  const auto tokens = iota(40);
  PageTable first, second;
  for (PageTable* table : {&first, &second}) {
    pages.match(0, tokens, *table);
    ASSERT_TRUE(pages.grow(*table, 40));
  }
  pages.seal(0, tokens, 16, first);
  pages.seal(0, tokens, 32, second);  // its second block continues the first's first block
  PageTable third;
  EXPECT_EQ(pages.match(0, tokens, third), 32);
  EXPECT_EQ(third.pages[0], first.pages[0]);
  EXPECT_EQ(third.pages[1], second.pages[1]);
}

TEST(KvPages, EvictsTheLeastRecentlyUsedAndEndsBeforeBeginnings) {
  KvPages pages(4, true);
  run_through(pages, 0, iota(32));
  run_through(pages, 0, iota(32, 100));
  PageTable table;
  ASSERT_TRUE(pages.grow(table, 16));
  PageTable old, recent;
  EXPECT_EQ(pages.match(0, iota(33), old), 16) << "the oldest sequence lost its end";
  EXPECT_EQ(pages.match(0, iota(33, 100), recent), 32);
}

TEST(KvPages, HashCollisionsServeNothingWrong) {
  KvPages pages(16, true, [](const KvPages::BlockKey&) -> uint64_t { return 42; });
  run_through(pages, 0, iota(33));
  PageTable table;
  EXPECT_EQ(pages.match(0, iota(33, 7), table), 0);
  EXPECT_EQ(pages.match(1, iota(33), table), 0);
  EXPECT_EQ(pages.match(0, iota(33), table), 16) << "the second block collided with the first";
}

TEST(KvPages, WithoutPrefixCachingNothingIsShared) {
  KvPages pages(8, false);
  run_through(pages, 0, iota(32));
  PageTable table;
  EXPECT_EQ(pages.match(0, iota(33), table), 0);
}

// Random sequences over few distinct prefixes, many adapters and a small pool; a shadow of what every page
// holds proves that a match always returns pages with exactly the wanted content.
TEST(KvPages, RandomOperationsKeepTheInvariants) {
  struct Live {
    uint64_t adapter = 0;
    std::vector<int32_t> tokens;
    int computed = 0;
    PageTable table;
  };
  using Content = std::pair<uint64_t, std::vector<int32_t>>;  // adapter, all tokens up to the page's end
  const auto weak_hash = [](const KvPages::BlockKey& key) { return KvPages::hash_block(key) % 61; };
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };

  KvPages pages(40, true, weak_hash);
  std::vector<Live> live;
  std::map<int32_t, Content> written;
  int hits = 0;
  for (int step = 0; step < 20000; ++step) {
    const int action = below(10);
    if (action < 3 && live.size() < 12) {
      Live one{
          .adapter = static_cast<uint64_t>(below(2)), .tokens = iota(1 + below(90), below(2)), .table = {}};
      one.computed = pages.match(one.adapter, one.tokens, one.table);
      hits += one.computed > 0;
      for (size_t i = 0; i < one.table.pages.size(); ++i) {
        const auto end = one.tokens.begin() + static_cast<int64_t>(i + 1) * kKvPageSize;
        ASSERT_EQ(written[one.table.pages[i]], Content(one.adapter, {one.tokens.begin(), end}));
      }
      if (pages.grow(one.table, static_cast<int>(one.tokens.size()))) {
        live.push_back(std::move(one));
      } else {
        pages.release(one.table);
      }
    } else if (action < 8 && !live.empty()) {
      Live& one = live[static_cast<size_t>(below(static_cast<int>(live.size())))];
      if (one.computed == static_cast<int>(one.tokens.size())) {
        one.tokens.push_back(below(3));
        if (!pages.grow(one.table, static_cast<int>(one.tokens.size()))) one.tokens.pop_back();
      }
      const int target = std::min(one.computed + 1 + below(40), static_cast<int>(one.tokens.size()));
      for (; one.computed < target; ++one.computed) {
        const auto end = one.tokens.begin() + one.computed + 1;
        written[one.table.pages[static_cast<size_t>(one.computed / kKvPageSize)]] = {
            one.adapter, {one.tokens.begin(), end}};
      }
      pages.seal(one.adapter, one.tokens, one.computed, one.table);
    } else if (!live.empty()) {
      const auto victim = live.begin() + below(static_cast<int>(live.size()));
      pages.release(victim->table);
      live.erase(victim);
    }
    std::vector<const PageTable*> tables;
    for (const Live& one : live) tables.push_back(&one.table);
    ASSERT_NO_THROW(pages.check_integrity(tables)) << "step " << step;
  }
  EXPECT_GT(hits, 500);
}

}  // namespace
}  // namespace polylora
