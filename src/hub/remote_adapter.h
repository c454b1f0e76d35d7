// Adapters that lie under an https:// or s3:// prefix: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/progress.h"
#include "hub/web.h"

namespace polylora {

/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION (or AWS_DEFAULT_REGION),
/// AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL).
struct S3Settings {
  std::optional<AwsCredentials> credentials;  // absent: requests are not signed
  std::string region = "us-east-1";
  std::string endpoint;  // empty: AWS's own
};
S3Settings s3_settings_from_environment();

/// Whether the text has a scheme: "https://…", "s3://…".
bool is_url(const std::string& text);

/// Downloads both files and returns their folder, which is named by their content: what was fetched before
/// stays as it is for those who use it. Redirects are refused. Throws kInvalidArgument for another kind of
/// URL, kNotFound, kResourceExhausted beyond max_bytes, kUnavailable, kIo. Thread-safe.
std::filesystem::path fetch_remote_adapter(const std::string& url, const std::filesystem::path& cache,
                                           uint64_t max_bytes, const ProgressFn& progress);

}  // namespace polylora
