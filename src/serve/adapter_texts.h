// The text side that an adapter's folder brings: chat template, tokenizer, generation defaults, for requests
// of that adapter alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "engine/adapter_registry.h"
#include "serve/server.h"

namespace polylora {

struct ServedBase;

/// Thread-safe. Reads a folder when its adapter is first asked for, and again after kMaxTexts others:
/// tokenizers of megabytes, so not on an HTTP thread.
class AdapterTexts {
 public:
  static constexpr size_t kMaxTexts = 4096;

  /// `load` may be empty: then all adapters speak as their base does.
  explicit AdapterTexts(AdapterTextLoader load) : load_(std::move(load)) {}

  /// The base with what the adapter changes of it; null: nothing. Throws what reading its files does.
  std::shared_ptr<const ServedBase> find(const ServedBase& base, const ServerOptions& options,
                                         const AdapterLease& adapter);

  /// Whether find() would answer without reading files.
  bool is_read(const AdapterLease& adapter) const;

 private:
  bool may_have_own(const AdapterLease& adapter) const;

  const AdapterTextLoader load_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<const ServedBase>> by_generation_;  // null: nothing of its own
};

}  // namespace polylora
