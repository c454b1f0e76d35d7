// A repository's place in the cache that all Hugging Face libraries share:
//   models--org--name/refs/main               the commit that a branch was at
//   models--org--name/snapshots/COMMIT/FILE   links into blobs/
//   models--org--name/blobs/ETAG              contents, by checksum; ETAG.incomplete while on its way
//   .locks/models--org--name/ETAG.lock        held while a blob is written
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace polylora {

class HubCache {
 public:
  HubCache(const std::filesystem::path& root, const std::string& repo);

  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path incomplete(const std::string& etag) const;

  /// The commit of a branch or tag as of the last visit, or of a commit that is here.
  std::optional<std::string> find_commit(const std::string& revision) const;
  void remember_commit(const std::string& revision, const std::string& commit) const;

  /// Makes snapshots/COMMIT/FILE show the blob. Any process may do so at the same time.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;

  /// Waits until no other process writes this blob; holds the others off while it lives.
  class Lock {
   public:
    Lock(const HubCache& cache, const std::string& etag);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    int fd_ = -1;
  };

 private:
  std::filesystem::path folder_;
  std::filesystem::path locks_;
};

/// 40 hexadecimal digits: the only names of snapshots.
bool is_commit(const std::string& text);

}  // namespace polylora
