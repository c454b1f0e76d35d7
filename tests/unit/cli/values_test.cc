#include "cli/values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace polylora {
namespace {

TEST(ParseCount, ReadsVllmsHumanReadableIntegers) {
  EXPECT_EQ(parse_count("--x", "2048"), 2048);
  EXPECT_EQ(parse_count("--x", "1k"), 1000);
  EXPECT_EQ(parse_count("--x", "1K"), 1024);
  EXPECT_EQ(parse_count("--x", "25.6k"), 25600);
  EXPECT_EQ(parse_count("--x", "2M"), 2 << 20);
  EXPECT_EQ(parse_count("--x", "1.5G"), 3LL << 29);
  EXPECT_EQ(parse_count("--x", "512MiB"), 512LL << 20);
  EXPECT_EQ(parse_count("--x", "-1"), -1);
}

TEST(ParseCount, NamesTheFlagOfANonsenseValue) {
  for (const char* text :
       {"", "k", "1.5", "12x", "1 k", "0x10", "1e3", "99999999999999999999", "nan", "inf", "1KB2"}) {
    try {
      parse_count("--max-model-len", text);
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), testing::StartsWith("--max-model-len: '" + std::string(text) + "'"));
    }
  }
}

TEST(FormatBytes, ThreeDigitsAtMost) {
  EXPECT_EQ(format_bytes(4096), "4 KiB");
  EXPECT_EQ(format_bytes(5 << 19), "2.5 MiB");
  EXPECT_EQ(format_bytes(92 << 20), "92 MiB");
  EXPECT_EQ(format_bytes(size_t{4} << 30), "4.0 GiB");
}

TEST(EditDistance, CountsSwapsAsOne) {
  EXPECT_EQ(edit_distance("serve", "serve"), 0);
  EXPECT_EQ(edit_distance("sevre", "serve"), 1);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Nearest, OnlyWhatWasProbablyMeant) {
  const std::vector<std::string> flags = {"--max-loras", "--max-lora-rank", "--port"};
  EXPECT_EQ(nearest("--max-lora", flags), "--max-loras");
  EXPECT_EQ(nearest("--prot", flags), "--port");
  EXPECT_EQ(nearest("--something-else", flags), "");
}

}  // namespace
}  // namespace polylora
