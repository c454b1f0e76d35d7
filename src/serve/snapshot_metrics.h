// The metrics that are read off the engine, the registry and the process at the moment of a scrape.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/engine.h"

namespace polylora {

/// One base model's engine at the moment of the scrape.
struct EngineSnapshot {
  std::string model_name;
  EngineStats stats;
  const EngineOptions& options;
};

/// `engines` in the order of the registry's bases, whose adapters `adapters` are.
std::vector<prometheus::MetricFamily> snapshot_metrics(const std::vector<EngineSnapshot>& engines,
                                                       const std::vector<AdapterInfo>& adapters);

/// process_resident_memory_bytes and the like, from /proc.
std::vector<prometheus::MetricFamily> process_metrics();

}  // namespace polylora
