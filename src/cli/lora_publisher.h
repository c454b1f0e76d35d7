// The adapters that a training run leaves in its output folder, kept in step with the registry:
//   DIR/checkpoint-N   is served as NAME@N
//   DIR itself         as NAME, once the run has written its final adapter there
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"

namespace polylora {

struct WatchedFolder {
  std::string name;
  std::filesystem::path path;     // need not exist yet
  std::string base_model_name{};  // of its adapters; empty: found for each
};

/// Publishes complete adapters, replaces those whose files changed and removes those whose files vanished.
/// Leases keep running requests as they are. Names that others registered are never touched. One thread.
class LoraPublisher {
 public:
  using Clock = std::chrono::steady_clock;
  /// Each may be empty.
  struct Reports {
    std::function<void(const std::string& name)> removed;
    std::function<void(const std::string& line)> info;
    std::function<void(const std::string& line)> warning;
  };

  /// `served_names` are those of base models and cannot be given to adapters.
  LoraPublisher(AdapterRegistry& registry, std::vector<WatchedFolder> folders,
                std::vector<std::string> served_names);

  void set_reports(Reports reports) { reports_ = std::move(reports); }

  /// Compares the folders with what is published. Does not throw: an adapter that cannot be loaded is tried
  /// again when its files change and once two seconds later, since they may still be written; then a warning
  /// says why, once. What may be only a passing shortage is tried further. Returns when to scan again even if
  /// no file changes.
  std::optional<Clock::time_point> scan(Clock::time_point now);

  /// The folders whose changes matter: the watched ones and their checkpoints, existing or not.
  std::vector<std::filesystem::path> folders() const;

 private:
  /// What tells one content of a file from another without reading it.
  struct FileStamp {
    int64_t modified_ns = 0;
    int64_t size = 0;
    uint64_t inode = 0;
    bool operator==(const FileStamp&) const = default;
  };
  struct Stamp {
    FileStamp config, weights;
    bool operator==(const Stamp&) const = default;
  };
  struct Candidate {
    std::string name;
    std::filesystem::path path;
    std::string base_model_name;
    Stamp stamp;
  };
  struct Entry {
    Stamp stamp;              // that was tried last
    uint64_t generation = 0;  // published by us; 0: none yet
    int failures = 0;         // with this stamp
    std::optional<Clock::time_point> retry_at;
  };

  static std::optional<FileStamp> file_stamp(const std::filesystem::path& path);
  static std::optional<Stamp> stamp(const std::filesystem::path& adapter);
  std::vector<Candidate> candidates() const;
  bool is_ours(const std::string& name, const Entry& entry) const;
  void publish(const Candidate& candidate, Entry& entry, Clock::time_point now);
  void note_failure(const Candidate& candidate, Entry& entry, Clock::time_point now,
                    const Error& error) const;
  void remove_vanished(const std::vector<Candidate>& present);

  AdapterRegistry& registry_;
  const std::vector<WatchedFolder> folders_;
  const std::vector<std::string> served_names_;
  Reports reports_;
  std::map<std::string, Entry> entries_;  // by adapter name
};

}  // namespace polylora
