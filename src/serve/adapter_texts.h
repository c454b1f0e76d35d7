// The text side that an adapter's folder brings: chat template, tokenizer, generation defaults, for requests
// of that adapter alone.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "engine/adapter_registry.h"
#include "serve/server.h"

namespace polylora {

struct ServedBase;

/// Thread-safe. Reads a folder when its adapter is first asked for; keeps the kMaxTexts that were used last.
class AdapterTexts {
 public:
  static constexpr size_t kMaxTexts = 4096;

  /// `load` may be empty: then all adapters speak as their base does.
  explicit AdapterTexts(AdapterTextLoader load) : load_(std::move(load)) {}

  /// The base with what the adapter changes of it; null: nothing. Throws what reading its files does.
  std::shared_ptr<const ServedBase> find(const ServedBase& base, const ServerOptions& options,
                                         const AdapterLease& adapter);

 private:
  using Entry = std::pair<uint64_t, std::shared_ptr<const ServedBase>>;  // by generation

  const AdapterTextLoader load_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
};

}  // namespace polylora
