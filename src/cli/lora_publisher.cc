#include "cli/lora_publisher.h"

#include <sys/stat.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "io/adapter_source.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr seconds kSecondTry{2};
constexpr seconds kLongestPause{60};
constexpr std::string_view kCheckpointPrefix = "checkpoint-";

/// "checkpoint-120" -> "120"; empty for anything else, such as the folder that a trainer still writes into.
std::string checkpoint_number(const fs::path& path) {
  const std::string name = path.filename();
  if (!name.starts_with(kCheckpointPrefix)) return {};
  const std::string number = name.substr(kCheckpointPrefix.size());
  return number.find_first_not_of("0123456789") == std::string::npos ? number : std::string();
}

/// Checkpoints in order of their number; an absent folder has none.
std::vector<fs::path> checkpoints_of(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code failed;
  for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
    if (!checkpoint_number(entry->path()).empty()) found.push_back(entry->path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    const std::string x = checkpoint_number(a), y = checkpoint_number(b);
    return std::pair(x.size(), x) < std::pair(y.size(), y);
  });
  return found;
}

/// Room or the disk may be there again later.
bool may_pass(ErrorCode code) {
  return code == ErrorCode::kResourceExhausted || code == ErrorCode::kIo || code == ErrorCode::kUnavailable;
}

}  // namespace

LoraPublisher::LoraPublisher(AdapterRegistry& registry, std::vector<WatchedFolder> folders,
                             std::vector<std::string> served_names)
    : registry_(registry), folders_(std::move(folders)), served_names_(std::move(served_names)) {}

std::optional<LoraPublisher::FileStamp> LoraPublisher::file_stamp(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return FileStamp{int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec, info.st_size,
                   info.st_ino};
}

std::optional<LoraPublisher::Stamp> LoraPublisher::stamp(const fs::path& adapter) {
  const auto config = file_stamp(adapter / "adapter_config.json");
  const auto weights = file_stamp(adapter_weights_path(adapter));
  if (!config || !weights) return std::nullopt;
  return Stamp{*config, *weights};
}

std::vector<LoraPublisher::Candidate> LoraPublisher::candidates() const {
  std::vector<Candidate> found;
  for (const WatchedFolder& folder : folders_) {
    const auto add = [&](const std::string& name, const fs::path& path) {
      if (const auto files = stamp(path)) found.push_back({name, path, folder.base_model_name, *files});
    };
    for (const fs::path& checkpoint : checkpoints_of(folder.path))
      add(folder.name + "@" + checkpoint_number(checkpoint), checkpoint);
    add(folder.name, folder.path);
  }
  return found;
}

std::vector<fs::path> LoraPublisher::folders() const {
  std::vector<fs::path> all;
  for (const WatchedFolder& folder : folders_) {
    all.push_back(folder.path);
    for (const fs::path& checkpoint : checkpoints_of(folder.path)) all.push_back(checkpoint);
  }
  return all;
}

/// Whether the name still stands for what we published under it.
bool LoraPublisher::is_ours(const std::string& name, const Entry& entry) const {
  const AdapterLease current = registry_.lease(name);
  return current != nullptr && adapter_generation_id(current) == entry.generation;
}

std::optional<LoraPublisher::Clock::time_point> LoraPublisher::scan(Clock::time_point now) {
  const std::vector<Candidate> present = candidates();
  remove_vanished(present);
  std::optional<Clock::time_point> next;
  for (const Candidate& candidate : present) {
    const auto [found, is_new] = entries_.try_emplace(candidate.name);
    Entry& entry = found->second;
    if (is_new || entry.stamp != candidate.stamp) {
      entry.stamp = candidate.stamp;
      entry.failures = 0;
      publish(candidate, entry, now);
    } else if (entry.retry_at && now >= *entry.retry_at) {
      publish(candidate, entry, now);
    }
    if (entry.retry_at) next = next ? std::min(*next, *entry.retry_at) : *entry.retry_at;
  }
  return next;
}

void LoraPublisher::publish(const Candidate& candidate, Entry& entry, Clock::time_point now) {
  const bool replaces = is_ours(candidate.name, entry);
  try {
    if (std::find(served_names_.begin(), served_names_.end(), candidate.name) != served_names_.end()) {
      fail(ErrorCode::kAlreadyExists, "the name is a base model's");
    }
    registry_.add(candidate.name, candidate.path, AdapterRegistry::LoadMode::kNow, replaces,
                  candidate.base_model_name);
  } catch (const Error& error) {
    note_failure(candidate, entry, now, error);
    return;
  } catch (const std::exception& error) {  // memory
    note_failure(candidate, entry, now, Error(ErrorCode::kResourceExhausted, error.what()));
    return;
  }
  entry.generation = adapter_generation_id(registry_.lease(candidate.name));
  entry.retry_at.reset();
  if (reports_.info) {
    reports_.info(fmt::format("adapter '{}' {} from {}", candidate.name, replaces ? "replaced" : "published",
                              candidate.path.string()));
  }
}

void LoraPublisher::note_failure(const Candidate& candidate, Entry& entry, Clock::time_point now,
                                 const Error& error) const {
  ++entry.failures;
  entry.retry_at.reset();
  if (entry.failures == 1) {
    entry.retry_at = now + kSecondTry;
  } else if (may_pass(error.code())) {
    entry.retry_at = now + std::min(kSecondTry * (1 << std::min(entry.failures, 6)), kLongestPause);
  }
  if (entry.failures == 2 && reports_.warning) {
    reports_.warning(fmt::format("adapter '{}' is not served ({}): {}", candidate.name,
                                 candidate.path.string(), error.what()));
  }
}

void LoraPublisher::remove_vanished(const std::vector<Candidate>& present) {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const std::string& name = entry->first;
    const bool there = std::any_of(present.begin(), present.end(),
                                   [&](const Candidate& candidate) { return candidate.name == name; });
    if (there) {
      ++entry;
      continue;
    }
    if (is_ours(name, entry->second) && registry_.remove(name)) {
      if (reports_.removed) reports_.removed(name);
      if (reports_.info) reports_.info(fmt::format("adapter '{}' removed: its files are gone", name));
    }
    entry = entries_.erase(entry);
  }
}

}  // namespace polylora
