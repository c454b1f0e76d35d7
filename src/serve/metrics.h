// GET /metrics: vLLM's names, so that its dashboards and routers work, plus an `adapter` label on what is
// counted per request.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "engine/request.h"

namespace polylora {

struct ServedBase;

/// What stands for an adapter's name when several are combined: their number must not follow from what
/// clients think up.
inline constexpr const char* kStackLabel = "(stack)";

/// One engine request that ended.
struct FinishedRequest {
  std::string model_name;  // the base model's
  std::string adapter;     // empty: the base model itself
  FinishReason reason = FinishReason::kStop;
  int prompt_tokens = 0;
  int cached_tokens = 0;
  int completion_tokens = 0;
  int preemptions = 0;
  int max_tokens = 0;
  int n = 1;
  RequestTimes times;
  std::vector<double> token_gaps;  // seconds between tokens
};

/// Thread-safe. Series of adapters that were unloaded disappear: the number of series follows the number of
/// loaded adapters, whatever clients do. Their requests that end later count for adapter="(unloaded)".
class Metrics {
 public:
  /// `bases` and `registry` must outlive it. The base model's first name labels every series.
  Metrics(const std::vector<ServedBase>& bases, const AdapterRegistry& registry);
  ~Metrics();

  void finished(const FinishedRequest& request);
  void rejected(const std::string& model_name);  // the queue was full
  void adapter_unloaded(const std::string& adapter);

  /// Prometheus' text format.
  std::string render() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polylora
