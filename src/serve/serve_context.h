// What the route handlers share, and the list of routes.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "serve/grammar_cache.h"
#include "serve/http_message.h"
#include "serve/metrics.h"
#include "serve/request_parser.h"
#include "serve/router.h"
#include "serve/server.h"

namespace polylora {

/// Lives as long as the server. Const for the handlers but for the counters and the metrics, which are
/// thread-safe.
struct ServeContext {
  Engine& engine;
  AdapterRegistry& registry;
  const ServedModel& model;
  const ServerOptions& options;
  GrammarCache& grammars;
  RequestRules rules;
  Metrics metrics;
  std::atomic<int> load{0};  // generation requests being served
  /// Runs work that reads disks (adapter loads), one at a time, away from the HTTP threads.
  std::function<void(std::function<void()>)> run_loading;
  /// Runs work that only computes, away from the HTTP threads.
  std::function<void(std::function<void()>)> run_computing;
};

/// Which weights a request's `model` means.
struct ModelChoice {
  std::string echoed;   // the answer's "model"
  std::string adapter;  // empty: the base model
  AdapterLease lease;   // null: the base model
};

/// Throws vLLM's 404 for an unknown name.
ModelChoice choose_model(const ServeContext& context, const std::string& name);

/// Bodies above this many bytes are parsed and tokenized off the HTTP threads.
inline constexpr size_t kInlineBodyBytes = 16 * 1024;

/// Runs `work` here or, when the body is large, on a computing thread. What it throws becomes the answer.
void prepare_answer(ServeContext& context, const std::shared_ptr<Exchange>& exchange,
                    std::function<void()> work);

// Each adds its routes; `context` outlives the router.
void add_completions_routes(Router& router, ServeContext& context);
void add_chat_routes(Router& router, ServeContext& context);
void add_models_routes(Router& router, ServeContext& context);
void add_tokenize_routes(Router& router, ServeContext& context);
void add_lora_routes(Router& router, ServeContext& context);
void add_service_routes(Router& router, ServeContext& context);  // /health, /version, /metrics, …

}  // namespace polylora
