// http://host:port/prefix of the server that gets the load.
#pragma once

#include <string>
#include <string_view>

namespace polylora {

struct ServerUrl {
  bool tls = false;
  std::string host = "127.0.0.1";  // an IPv6 address without brackets
  std::string port = "8000";
  std::string prefix;  // before every path: "" or "/api"

  /// "127.0.0.1:8000", "[::1]:8000".
  std::string host_port() const;
  std::string text() const;  // "http://127.0.0.1:8000/api"
};

/// Throws kInvalidArgument for anything but http:// or https://, a host, and optionally a port and a path.
ServerUrl parse_server_url(std::string_view text);

}  // namespace polylora
