#include "base/base64.h"

#include <gtest/gtest.h>

namespace polylora {
namespace {

TEST(Base64, WritesAndReadsEveryLength) {
  EXPECT_EQ(base64_encode(""), "");
  EXPECT_EQ(base64_encode("f"), "Zg==");
  EXPECT_EQ(base64_encode("fo"), "Zm8=");
  EXPECT_EQ(base64_encode("foo"), "Zm9v");
  EXPECT_EQ(base64_encode("\xfb\xff\xfe"), "+//+");
  std::string bytes;
  for (int i = 0; i < 600; ++i) {
    EXPECT_EQ(base64_decode(base64_encode(bytes)), bytes);
    bytes += static_cast<char>(i * 7);
  }
}

TEST(Base64, ReadsNothingElse) {
  for (const char* text :
       {"Z", "Zg", "Zg=", "Zg===", "=", "====", "Z===", "Zm9v=", "Zg==Zg==", "Zm 9v", "Zm9-", "Zh==", "Zm9="})
    EXPECT_FALSE(base64_decode(text)) << text;
}

}  // namespace
}  // namespace polylora
