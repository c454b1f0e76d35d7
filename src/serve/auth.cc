#include "serve/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <string_view>

namespace polylora {

namespace {

std::string digest(std::string_view key) {
  std::string out(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(),
         reinterpret_cast<unsigned char*>(out.data()));
  return out;
}

std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (!equal_ignoring_case(authorization.substr(0, kScheme.size()), kScheme)) return {};
  authorization.remove_prefix(kScheme.size());
  return authorization;
}

bool is_probe(std::string_view path) {
  return path == "/health" || path == "/ping";
}

}  // namespace

Authenticator::Authenticator(const std::vector<std::string>& keys) {
  for (const std::string& key : keys)
    if (!key.empty()) digests_.push_back(digest(key));
}

bool Authenticator::allows(const HttpRequest& request) const {
  if (digests_.empty() || is_probe(request.path)) return true;
  const std::string given = digest(bearer_token(request.headers.get("authorization")));
  bool known = false;  // every key is compared, in constant time: how long this takes tells nothing
  for (const std::string& key : digests_) known |= CRYPTO_memcmp(given.data(), key.data(), key.size()) == 0;
  return known;
}

HttpResponse Authenticator::refusal() {
  HttpResponse response = json_answer(R"({"error":"Unauthorized"})", 401);
  response.headers.add("www-authenticate", "Bearer");
  return response;
}

}  // namespace polylora
