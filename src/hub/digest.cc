#include "hub/digest.h"

#include <openssl/evp.h>

#include <fstream>
#include <vector>

#include "base/error.h"

namespace polylora {

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Digest::Digest(Kind kind) : state_(std::make_unique<State>()) {
  const EVP_MD* method = kind == Kind::kSha256 ? EVP_sha256() : EVP_sha1();
  if (state_->context == nullptr || EVP_DigestInit_ex(state_->context, method, nullptr) != 1)
    fail(ErrorCode::kIo, "OpenSSL offers no digest to check downloads with");
}

Digest::~Digest() = default;

void Digest::update(std::string_view bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Digest::hex() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(state_->context, bytes, &size);
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

namespace {

std::string digest_of_file(Digest& digest, const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> piece(size_t{1} << 20);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    digest.update({piece.data(), static_cast<size_t>(file.gcount())});
  }
  if (!file.eof()) fail(ErrorCode::kIo, "cannot read {}", path.string());
  return digest.hex();
}

}  // namespace

std::string sha256_of_file(const std::filesystem::path& path) {
  Digest digest(Digest::Kind::kSha256);
  return digest_of_file(digest, path);
}

std::string git_blob_of_file(const std::filesystem::path& path) {
  Digest digest(Digest::Kind::kSha1);
  digest.update(fmt::format("blob {}", std::filesystem::file_size(path)));
  digest.update(std::string_view("\0", 1));
  return digest_of_file(digest, path);
}

}  // namespace polylora
