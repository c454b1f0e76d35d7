// SHA-256 and SHA-1 of data that comes in pieces.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace polylora {

class Digest {
 public:
  enum class Kind : uint8_t { kSha256, kSha1 };
  explicit Digest(Kind kind);
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void update(std::string_view bytes);
  /// Lower-case hexadecimal; ends the digest.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Throws kIo naming the file.
std::string sha256_of_file(const std::filesystem::path& path);
/// Git's name for a file's content: SHA-1 of "blob <size>\0" and the content.
std::string git_blob_of_file(const std::filesystem::path& path);

}  // namespace polylora
