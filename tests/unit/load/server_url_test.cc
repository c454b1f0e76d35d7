#include "load/server_url.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace polylora {
namespace {

TEST(ServerUrl, SplitsAddresses) {
  const ServerUrl plain = parse_server_url("http://example.org");
  EXPECT_EQ(plain.host_port(), "example.org:80");
  EXPECT_FALSE(plain.tls);
  const ServerUrl full = parse_server_url("https://[::1]:8443/api/v2/");
  EXPECT_TRUE(full.tls);
  EXPECT_EQ(full.host, "::1");
  EXPECT_EQ(full.port, "8443");
  EXPECT_EQ(full.prefix, "/api/v2");
  EXPECT_EQ(full.text(), "https://[::1]:8443/api/v2");
  EXPECT_EQ(parse_server_url("https://h/").text(), "https://h:443");
}

TEST(ServerUrl, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "127.0.0.1:8000", "ftp://h", "http://", "http://:80", "http://h:", "http://h:x", "http://h:0",
        "http://h:65536", "http://[::1", "http://[::1]x", "http://h/a b", "http://h\n"})
    EXPECT_THROW(parse_server_url(text), Error) << text;
}

}  // namespace
}  // namespace polylora
