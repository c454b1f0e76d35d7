#include "cli/lora_watch.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "cli/lora_modules.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Clock = LoraPublisher::Clock;

WatchedFolder parse_item(const std::string& item) {
  const size_t equals = item.find('='), slash = item.find('/');
  const bool named = equals != std::string::npos && (slash == std::string::npos || equals < slash);
  const fs::path path = resolve_adapter_path(named ? item.substr(equals + 1) : item);
  if (path.empty()) fail(ErrorCode::kInvalidArgument, "--lora-watch: '{}' names no folder", item);
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_directory(path, ignored))
    fail(ErrorCode::kInvalidArgument, "--lora-watch: {} is not a folder", path.string());
  if (named) return {item.substr(0, equals), path};
  const fs::path normal = fs::absolute(path).lexically_normal();  // "saves/x/", "."
  return {normal.has_filename() ? normal.filename() : normal.parent_path().filename(), path};
}

}  // namespace

std::vector<WatchedFolder> parse_lora_watch(const std::vector<std::string>& items,
                                            const std::vector<std::string>& served_names) {
  std::vector<WatchedFolder> folders;
  std::set<std::string> names(served_names.begin(), served_names.end());
  for (const std::string& item : items) {
    if (item.empty()) continue;
    WatchedFolder folder = parse_item(item);
    if (folder.name.empty())
      fail(ErrorCode::kInvalidArgument, "--lora-watch: '{}' needs a name: NAME=DIR", item);
    if (!names.insert(folder.name).second) {
      fail(ErrorCode::kInvalidArgument, "--lora-watch: the name '{}' is taken; choose another: NAME={}",
           folder.name, folder.path.string());
    }
    folders.push_back(std::move(folder));
  }
  return folders;
}

LoraWatch::LoraWatch(LoraPublisher& publisher) : publisher_(publisher), thread_([this] { run(); }) {}

LoraWatch::~LoraWatch() {
  events_.stop();
  thread_.join();
}

void LoraWatch::run() {
  std::optional<std::chrono::milliseconds> pause;
  do {
    events_.watch(publisher_.folders());  // before the scan: what comes after it wakes us
    const auto next = publisher_.scan(Clock::now());
    pause.reset();
    if (next) pause = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now());
  } while (events_.wait(pause) != FolderEvents::Wake::kStopped);
}

}  // namespace polylora
