#include "load/server_url.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace polylora {
namespace {

[[noreturn]] void refuse(std::string_view text, const char* why) {
  fail(ErrorCode::kInvalidArgument, "'{}' is not the address of a server: {}; e.g. http://127.0.0.1:8000",
       text, why);
}

/// Cuts the host, in brackets when it is an IPv6 address, off the front.
std::string take_host(std::string_view text, std::string_view& rest) {
  if (!rest.starts_with('[')) {
    const std::string host(rest.substr(0, rest.find_first_of(":/")));
    rest.remove_prefix(host.size());
    return host;
  }
  const size_t end = rest.find(']');
  if (end == std::string_view::npos) refuse(text, "a ']' is missing");
  const std::string host(rest.substr(1, end - 1));
  rest.remove_prefix(end + 1);
  return host;
}

void check_port(std::string_view text, const std::string& port) {
  int value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc{} || end != port.data() + port.size() || value < 1 || value > 65535)
    refuse(text, "the port is not a number from 1 to 65535");
}

}  // namespace

std::string ServerUrl::host_port() const {
  return host.find(':') == std::string::npos ? host + ":" + port : "[" + host + "]:" + port;
}

std::string ServerUrl::text() const {
  return (tls ? "https://" : "http://") + host_port() + prefix;
}

ServerUrl parse_server_url(std::string_view text) {
  ServerUrl url;
  std::string_view rest = text;
  if (rest.starts_with("https://")) {
    url.tls = true;
  } else if (!rest.starts_with("http://")) {
    refuse(text, "it begins with neither http:// nor https://");
  }
  rest.remove_prefix(url.tls ? 8 : 7);
  const bool unprintable = std::any_of(rest.begin(), rest.end(), [](unsigned char c) { return c <= ' '; });
  if (unprintable) refuse(text, "it contains spaces or control characters");
  url.host = take_host(text, rest);
  if (url.host.empty()) refuse(text, "it names no host");
  url.port = url.tls ? "443" : "80";
  if (rest.starts_with(':')) {
    url.port = std::string(rest.substr(1, rest.find('/') - 1));
    check_port(text, url.port);
    rest.remove_prefix(url.port.size() + 1);
  }
  if (!rest.empty() && rest.front() != '/')
    refuse(text, "something follows the host that is neither port nor path");
  while (rest.ends_with('/')) rest.remove_suffix(1);
  url.prefix = rest;
  return url;
}

}  // namespace polylora
