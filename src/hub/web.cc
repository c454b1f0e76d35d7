#include "hub/web.h"

#include <curl/curl.h>

#include <cctype>
#include <exception>
#include <memory>

#include "base/error.h"

namespace polylora {
namespace {

constexpr size_t kMaxErrorBody = size_t{64} << 10;
constexpr size_t kMaxHeaders = 256;
constexpr long kConnectSeconds = 15;
constexpr long kStallSeconds = 30;
constexpr std::string_view kEmptySha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

void initialise_curl() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) fail(ErrorCode::kIo, "libcurl cannot start: {}", curl_easy_strerror(code));
}

struct EasyDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
struct TextDeleter {
  void operator()(char* text) const { curl_free(text); }
};
using UrlHandle = std::unique_ptr<CURLU, UrlDeleter>;
using CurlText = std::unique_ptr<char, TextDeleter>;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

/// One request on its way; libcurl calls back into it.
class Transfer {
 public:
  Transfer(const WebRequest& request, const WebSink& sink) : request_(request), sink_(sink) {
    initialise_curl();
    curl_.reset(curl_easy_init());
    if (!curl_) fail(ErrorCode::kResourceExhausted, "libcurl cannot make a request");
  }

  WebAnswer run() {
    set_options();
    const CURLcode code = curl_easy_perform(curl_.get());
    if (error_) std::rethrow_exception(error_);
    if (code != CURLE_OK) {
      fail(ErrorCode::kUnavailable, "{}: {}", origin_of(request_.url),
           message_[0] != '\0' ? message_ : curl_easy_strerror(code));
    }
    answer_.status = status();
    return std::move(answer_);
  }

 private:
  int status() const {
    long code = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &code);
    return static_cast<int>(code);
  }

  template <typename Value>
  void set(CURLoption option, Value value) {
    curl_easy_setopt(curl_.get(), option, value);
  }

  void add_header(const std::string& line) {
    curl_slist* longer = curl_slist_append(headers_.get(), line.c_str());
    if (longer == nullptr) fail(ErrorCode::kResourceExhausted, "out of memory for HTTP headers");
    (void)headers_.release();
    headers_.reset(longer);
  }

  void set_options() {
    set(CURLOPT_URL, request_.url.c_str());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_USERAGENT, "polylora/" POLYLORA_VERSION);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, kStallSeconds);
    set(CURLOPT_ERRORBUFFER, message_);
    set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    set(CURLOPT_WRITEDATA, this);
    if (request_.head) set(CURLOPT_NOBODY, 1L);
    for (const std::string& line : request_.headers) add_header(line);
    if (request_.aws) sign(*request_.aws);
    set(CURLOPT_HTTPHEADER, headers_.get());
  }

  void sign(const AwsCredentials& aws) {
    set(CURLOPT_AWS_SIGV4, ("aws:amz:" + aws.region + ":s3").c_str());
    set(CURLOPT_USERNAME, aws.access_key_id.c_str());
    set(CURLOPT_PASSWORD, aws.secret_access_key.c_str());
    add_header("x-amz-content-sha256: " + std::string(kEmptySha256));  // S3 insists; curl 7.88 leaves it out
    if (!aws.session_token.empty()) add_header("x-amz-security-token: " + aws.session_token);
  }

  /// No exception may pass through libcurl.
  template <typename Work>
  size_t guarded(size_t size, Work work) {
    try {
      work();
      return size;
    } catch (...) {
      error_ = std::current_exception();
      return 0;
    }
  }

  static size_t on_header(char* text, size_t, size_t size, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    return transfer.guarded(size, [&] { transfer.take_header({text, size}); });
  }
  static size_t on_body(char* text, size_t, size_t size, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    return transfer.guarded(size, [&] { transfer.take_body({text, size}); });
  }

  void take_header(std::string_view line) {
    if (line.starts_with("HTTP/")) {  // of an interim answer or of a proxy: the last one counts
      answer_ = {};
      return;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    if (answer_.headers.size() >= kMaxHeaders)
      fail(ErrorCode::kUnavailable, "{} answers with too many headers", origin_of(request_.url));
    answer_.headers[lower(line.substr(0, colon))] = trimmed(line.substr(colon + 1));
  }

  void take_body(std::string_view piece) {
    answer_.status = status();
    if (answer_.is_success() && sink_) return sink_(answer_, piece);
    answer_.body.append(piece.substr(0, kMaxErrorBody - answer_.body.size()));
  }

  const WebRequest& request_;
  const WebSink& sink_;
  std::unique_ptr<CURL, EasyDeleter> curl_;
  std::unique_ptr<curl_slist, ListDeleter> headers_;
  WebAnswer answer_;
  std::exception_ptr error_;
  char message_[CURL_ERROR_SIZE] = {};
};

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
  return CurlText(text).get();
}

UrlHandle parse_url(const std::string& url) {
  UrlHandle handle(curl_url());
  if (!handle || curl_url_set(handle.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK)
    fail(ErrorCode::kInvalidArgument, "'{}' is not a URL", url);
  const std::string scheme = url_part(handle.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https")
    fail(ErrorCode::kInvalidArgument, "'{}' is neither an http:// nor an https:// URL", url);
  return handle;
}

}  // namespace

std::string_view WebAnswer::header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

bool WebAnswer::is_redirect() const {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

WebAnswer fetch_once(const WebRequest& request, const WebSink& sink) {
  return Transfer(request, sink).run();
}

std::string origin_of(const std::string& url) {
  const UrlHandle handle = parse_url(url);
  return lower(url_part(handle.get(), CURLUPART_SCHEME) + "://" + url_part(handle.get(), CURLUPART_HOST)) +
         ":" + url_part(handle.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

std::string resolve_location(const std::string& url, const std::string& location) {
  const UrlHandle handle = parse_url(url);
  if (curl_url_set(handle.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK)
    fail(ErrorCode::kUnavailable, "{} redirects to '{}', which is not a URL", origin_of(url), location);
  return url_part(handle.get(), CURLUPART_URL);
}

namespace {

std::string percent_encoded(std::string_view text, std::string_view plain) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || plain.find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", byte);
    }
  }
  return out;
}

}  // namespace

std::string encode_path(std::string_view path) {
  return percent_encoded(path, "-._~/");
}

std::string encode_segment(std::string_view text) {
  return percent_encoded(text, "-._~");
}

}  // namespace polylora
