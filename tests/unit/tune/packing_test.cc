#include "tune/data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Example letters(const std::string& text) {
  Example example;
  example.input_ids.assign(text.begin(), text.end());
  example.labels = example.input_ids;
  example.labels[0] = kIgnoreIndex;
  return example;
}

TEST(GreedyKnapsack, TakesTheLongestThatFits) {
  const size_t lengths[] = {3, 7, 2, 5, 8};
  EXPECT_THAT(greedy_knapsack(lengths, 10),
              ElementsAre(ElementsAre(4, 2), ElementsAre(1, 0), ElementsAre(3)));
}

TEST(GreedyKnapsack, TakesTheLastOfEquallyLong) {
  const size_t lengths[] = {4, 4, 4, 4, 4};
  EXPECT_THAT(greedy_knapsack(lengths, 9), ElementsAre(ElementsAre(4, 3), ElementsAre(2, 1), ElementsAre(0)));
}

TEST(GreedyKnapsack, OfNothingIsNothing) {
  EXPECT_THAT(greedy_knapsack({}, 9), IsEmpty());
}

TEST(PackExamples, PositionsRestart) {
  const Example examples[] = {letters("ab"), letters("cde")};
  const std::vector<Example> rows = pack_examples(examples, 6, false);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_THAT(rows[0].input_ids, ElementsAre('c', 'd', 'e', 'a', 'b'));
  EXPECT_THAT(rows[0].labels, ElementsAre(kIgnoreIndex, 'd', 'e', kIgnoreIndex, 'b'));
  EXPECT_THAT(rows[0].positions, ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(rows[0].segments, IsEmpty());
}

TEST(PackExamples, NeatOnesKnowWhereTheyBegin) {
  const Example examples[] = {letters("ab"), letters("cde"), letters("fghi")};
  const std::vector<Example> rows = pack_examples(examples, 6, true);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_THAT(rows[0].segments, ElementsAre(0, 4));
  EXPECT_THAT(rows[1].segments, ElementsAre(0));
}

TEST(CutBlocks, DropsTheRest) {
  const Example examples[] = {letters("abc"), letters("de"), letters("fg")};
  const std::vector<Example> blocks = cut_blocks(examples, 3);
  ASSERT_EQ(blocks.size(), 2U);
  EXPECT_THAT(blocks[0].input_ids, ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(blocks[1].input_ids, ElementsAre('d', 'e', 'f'));
  EXPECT_EQ(blocks[1].labels, blocks[1].input_ids);
}

}  // namespace
}  // namespace polylora
