// HTTP GET and HEAD through libcurl, one request at a time, nothing followed or retried.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// Signs a request as AWS Signature Version 4 for S3.
struct AwsCredentials {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;  // empty: none
  std::string region;
};

struct WebRequest {
  std::string url;  // http or https
  bool head = false;
  std::vector<std::string> headers = {};  // "Name: value"
  std::optional<AwsCredentials> aws = {};
};

struct WebAnswer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // of answers other than 2xx, cut at 64 KiB

  std::string_view header(const std::string& lower_case_name) const;  // empty: not there
  bool is_success() const { return status >= 200 && status < 300; }
  bool is_redirect() const;
};

/// Takes the body of a 2xx answer piece by piece; what it throws ends the request and is thrown by
/// fetch_once.
using WebSink = std::function<void(const WebAnswer& head, std::string_view piece)>;

/// Throws kUnavailable when the server cannot be reached or stops sending for half a minute. Thread-safe.
WebAnswer fetch_once(const WebRequest& request, const WebSink& sink = {});

/// "https://host:443"; throws kInvalidArgument for what is no http(s) URL.
std::string origin_of(const std::string& url);

/// `location` as seen from `url`: absolute or relative to it.
std::string resolve_location(const std::string& url, const std::string& location);

/// A path's segments percent-encoded, slashes kept.
std::string encode_path(std::string_view path);
/// Slashes encoded as well.
std::string encode_segment(std::string_view text);

}  // namespace polylora
