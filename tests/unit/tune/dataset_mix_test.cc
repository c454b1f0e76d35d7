#include "tune/data/dataset_mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// "a0" is dataset 0's first record.
std::vector<std::string> mixed(const std::vector<size_t>& sizes, const std::string& strategy,
                               const std::vector<double>& probabilities = {}, int64_t seed = 42) {
  std::vector<std::string> result;
  for (const DatasetPosition& at : mix_datasets(sizes, strategy, probabilities, seed))
    result.push_back(static_cast<char>('a' + at.dataset) + std::to_string(at.record));
  return result;
}

TEST(MixDatasets, ConcatenatesOrTakesTurns) {
  EXPECT_THAT(mixed({2, 1}, "concat"), ElementsAre("a0", "a1", "b0"));
  EXPECT_THAT(mixed({3, 2}, "interleave_under"), ElementsAre("a0", "b0", "a1", "b1"));
  EXPECT_THAT(mixed({3, 2}, "interleave_over"), ElementsAre("a0", "b0", "a1", "b1", "a2", "b0"));
  EXPECT_THAT(mixed({3, 2}, "interleave_once"), ElementsAre("a0", "b0", "a1", "b1", "a2"));
  EXPECT_THAT(mixed({2, 0}, "interleave_over"), ElementsAre("a0", "a1"));
  EXPECT_THAT(mixed({0, 0}, "interleave_over"), IsEmpty());
}

TEST(MixDatasets, DrawsUntilOneOrAllHaveRunOut) {
  const std::vector<std::string> under = mixed({50, 50}, "interleave_under", {0.9, 0.1});
  EXPECT_EQ(std::count(under.begin(), under.end(), "a49"), 1);
  EXPECT_EQ(std::count(under.begin(), under.end(), "b49"), 0);
  EXPECT_EQ(under, mixed({50, 50}, "interleave_under", {0.9, 0.1}));
  EXPECT_NE(under, mixed({50, 50}, "interleave_under", {0.9, 0.1}, 43));
  const std::vector<std::string> over = mixed({50, 50}, "interleave_over", {0.9, 0.1});
  EXPECT_EQ(over.back(), "b49");
  EXPECT_EQ(std::set<std::string>(over.begin(), over.end()).size(), 100U);
  const double share = static_cast<double>(std::count_if(over.begin(), over.end(),
                                                         [](const auto& s) { return s[0] == 'a'; })) /
                       static_cast<double>(over.size());
  EXPECT_NEAR(share, 0.9, 0.06);
}

TEST(MixDatasets, DrawsEverythingOnce) {
  const std::vector<std::string> once = mixed({50, 50}, "interleave_once", {0.9, 0.1});
  EXPECT_EQ(once.size(), 100U);
  EXPECT_EQ(std::set<std::string>(once.begin(), once.end()).size(), 100U);
}

TEST(MixDatasets, ChecksItsOptions) {
  EXPECT_THAT(error_of([] { mixed({1, 1}, "stir"); }), HasSubstr("mix_strategy 'stir'"));
  EXPECT_THAT(error_of([] {
                mixed({1, 1}, "interleave_over", {1.0});
              }),
              HasSubstr("1 numbers for 2 datasets"));
  EXPECT_THAT(error_of([] { mixed({1, 1}, "interleave_over", {1.0, 0.0}); }), HasSubstr("not above 0"));
  EXPECT_THAT(error_of([] { mixed({1, 1}, "interleave_over", {1.0, 1e-9}); }), HasSubstr("1000 times"));
}

TEST(HeldOut, IsACountOrAShareRoundedUp) {
  EXPECT_EQ(held_out(100, 7.0, 1).size(), 7U);
  EXPECT_EQ(held_out(101, 0.1, 1).size(), 11U);
  EXPECT_EQ(held_out(10, 1.0, 1).size(), 1U);
  const std::vector<size_t> held = held_out(1000, 0.5, 1);
  EXPECT_EQ(held, held_out(1000, 0.5, 1));
  EXPECT_NE(held, held_out(1000, 0.5, 2));
  EXPECT_TRUE(std::is_sorted(held.begin(), held.end()));
  EXPECT_EQ(std::set<size_t>(held.begin(), held.end()).size(), 500U);
  EXPECT_THAT(error_of([] { held_out(5, 5.0, 1); }), HasSubstr("leaves none of the 5 usable records"));
}

}  // namespace
}  // namespace polylora
