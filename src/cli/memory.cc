#include "cli/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace polylora {
namespace {

std::optional<size_t> read_number(const char* path) {
  std::ifstream file(path);
  size_t value = 0;
  if (file >> value) return value;  // "max" is not a number: no limit
  return std::nullopt;
}

size_t machine_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  size_t kib = 0;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib << 10;
  }
  return std::numeric_limits<size_t>::max();
}

size_t group_memory(const char* limit_path, const char* usage_path) {
  const auto limit = read_number(limit_path);
  const auto usage = read_number(usage_path);
  if (!limit || !usage) return std::numeric_limits<size_t>::max();
  return *limit > *usage ? *limit - *usage : 0;
}

}  // namespace

size_t available_memory() {
  return std::min({machine_memory(),
                   group_memory("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
                   group_memory("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                "/sys/fs/cgroup/memory/memory.usage_in_bytes")});
}

}  // namespace polylora
