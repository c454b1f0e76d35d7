#include "hub/remote_adapter.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "hub/digest.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;
constexpr std::string_view kS3 = "s3://";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Plain characters only: what is compared with an allow-list is what is asked for.
void check_url(const std::string& url) {
  const size_t begin = url.find("://") + 3;
  const std::string_view rest = std::string_view(url).substr(begin);
  const bool plain = std::all_of(rest.begin(), rest.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("-._~/:+=").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain && !rest.empty() && rest.front() != '/' && rest.find("..") == std::string_view::npos &&
      rest.find("//") == std::string_view::npos)
    return;
  fail(ErrorCode::kInvalidArgument,
       "the adapter source '{}' is not a plain URL of a folder (letters, digits and -._~/:+= only)", url);
}

/// s3://bucket/key -> where it is served.
std::string s3_url(const std::string& url, const S3Settings& settings) {
  const std::string rest = url.substr(kS3.size());
  const size_t slash = rest.find('/');
  const std::string bucket = rest.substr(0, slash);
  const std::string key = slash == std::string::npos ? "" : encode_path(rest.substr(slash));
  if (!settings.endpoint.empty()) return fmt::format("{}/{}{}", settings.endpoint, bucket, key);
  if (bucket.find('.') != std::string::npos)  // does not match the certificate of *.s3.amazonaws.com
    return fmt::format("https://s3.{}.amazonaws.com/{}{}", settings.region, bucket, key);
  return fmt::format("https://{}.s3.{}.amazonaws.com{}", bucket, settings.region, key);
}

/// A folder for one download; what is left of it goes away.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent) {
    static std::atomic<uint64_t> count = 0;
    path_ = parent / fmt::format(".download-{}-{}", ::getpid(), count++);
    std::error_code error;
    fs::create_directories(path_, error);
    if (error) fail(ErrorCode::kIo, "cannot make {}: {}", path_.string(), error.message());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

[[noreturn]] void fail_status(const std::string& url, const WebAnswer& answer) {
  if (answer.is_redirect()) fail(ErrorCode::kUnsupported, "{} redirects, which adapter sources may not", url);
  if (answer.status == 404) {
    fail(ErrorCode::kNotFound,
         "{} is not there; an adapter source is a folder with adapter_config.json and "
         "adapter_model.safetensors (pickled .bin files are not read)",
         url);
  }
  if (answer.status == 401 || answer.status == 403)
    fail(ErrorCode::kNotFound, "{} may not be read: HTTP {}; are the AWS_* credentials right?", url,
         answer.status);
  fail(ErrorCode::kUnavailable, "{}: HTTP {}", url, answer.status);
}

[[noreturn]] void fail_size(const std::string& url, uint64_t max_bytes) {
  fail(ErrorCode::kResourceExhausted,
       "{} is larger than the {} bytes that a downloaded adapter may have "
       "(--max-adapter-download)",
       url, max_bytes);
}

uint64_t stated_size(const WebAnswer& answer) {
  const std::string_view text = answer.header("content-length");
  uint64_t size = 0;
  std::from_chars(text.data(), text.data() + text.size(), size);
  return size;
}

/// The digest of what was written.
std::string fetch_file(const WebRequest& request, const fs::path& path, uint64_t max_bytes,
                       const ProgressFn& progress) {
  AtomicFile file(path);
  Digest digest(Digest::Kind::kSha256);
  uint64_t size = 0;
  const WebAnswer answer = fetch_once(request, [&](const WebAnswer& head, std::string_view piece) {
    const uint64_t stated = stated_size(head);
    if (stated > max_bytes || piece.size() > max_bytes - size) fail_size(request.url, max_bytes);
    file.write(piece);
    digest.update(piece);
    size += piece.size();
    if (progress && stated > 0)
      progress("downloading " + request.url, static_cast<double>(size) / static_cast<double>(stated));
  });
  if (!answer.is_success()) fail_status(request.url, answer);
  file.commit();
  return digest.hex();
}

}  // namespace

S3Settings s3_settings_from_environment() {
  S3Settings settings;
  const auto first_of = [](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (std::string value = environment(name); !value.empty()) return value;
    }
    return std::string();
  };
  if (std::string region = first_of({"AWS_REGION", "AWS_DEFAULT_REGION"}); !region.empty())
    settings.region = std::move(region);
  settings.endpoint = first_of({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  const std::string id = environment("AWS_ACCESS_KEY_ID"), secret = environment("AWS_SECRET_ACCESS_KEY");
  if (!id.empty() && !secret.empty())
    settings.credentials = AwsCredentials{id, secret, environment("AWS_SESSION_TOKEN"), settings.region};
  return settings;
}

bool is_url(const std::string& text) {
  return text.find("://") != std::string::npos;
}

fs::path fetch_remote_adapter(const std::string& url, const fs::path& cache, uint64_t max_bytes,
                              const ProgressFn& progress) {
  check_url(url);
  const bool is_s3 = url.starts_with(kS3);
  const S3Settings s3 = s3_settings_from_environment();
  std::string folder_url = is_s3 ? s3_url(url, s3) : url;
  while (folder_url.ends_with('/')) folder_url.pop_back();
  origin_of(folder_url);  // throws for another scheme

  const TemporaryFolder folder(cache);
  Digest content(Digest::Kind::kSha256);
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const bool is_config = std::string_view(name) == "adapter_config.json";
    const WebRequest request{.url = fmt::format("{}/{}", folder_url, name),
                             .aws = is_s3 ? s3.credentials : std::nullopt};
    content.update(fetch_file(request, folder.path() / name,
                              is_config ? std::min(max_bytes, kMaxConfigBytes) : max_bytes, progress));
  }
  const fs::path place = cache / content.hex();
  std::error_code error;
  fs::rename(folder.path(), place, error);
  if (error && !fs::is_directory(place))
    fail(ErrorCode::kIo, "cannot make {}: {}", place.string(), error.message());
  return place;
}

}  // namespace polylora
