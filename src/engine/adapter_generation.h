// One generation of an adapter, or a stack of several: what a lease points to. For the engine's own files.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/request.h"
#include "model/adapter.h"

namespace polylora {

/// Unique per process; 0 is the base model.
inline uint64_t next_generation_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

/// A few hundred bytes; the files are opened again for every load, so that thousands of idle adapters hold
/// neither descriptors nor maps.
class AdapterGeneration {
 public:
  const uint64_t id = next_generation_id();
  std::string name;
  std::filesystem::path path;  // empty: a stack
  size_t base = 0;             // index of its base model
  std::string base_model_name;
  int64_t rank = 0;
  int vocab_size = 0;              // 0: the base model's
  bool stackable = true;           // as the files' headers tell
  std::vector<StackTerm> members;  // of a stack; empty: an adapter
  std::atomic<uint64_t> content_hash{0};

  // --- guarded by the registry's mutex; a stack has none of it
  size_t bytes = 0;                        // estimate until first loaded
  std::shared_ptr<const Adapter> weights;  // null: on disk
  bool loading = false;
  std::optional<Error> load_error;  // told once, then the next acquire() tries again
  bool published = false;           // reachable by name
  uint64_t last_used = 0;
  double load_seconds = -1;
};

}  // namespace polylora
