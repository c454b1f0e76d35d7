// What the route handlers share, and the list of routes.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "serve/adapter_texts.h"
#include "serve/grammar_cache.h"
#include "serve/http_message.h"
#include "serve/json_body.h"
#include "serve/metrics.h"
#include "serve/request_parser.h"
#include "serve/router.h"
#include "serve/server.h"

namespace polylora {

/// A base model and what its requests need to know of it.
struct ServedBase {
  ServedModel model;
  Engine& engine;
  RequestRules rules;
  std::unique_ptr<GrammarCache> grammars;  // over its tokenizer

  const std::string& name() const { return model.names.front(); }
};

/// Lives as long as the server. Const for the handlers but for the counters and the metrics, which are
/// thread-safe.
struct ServeContext {
  const std::vector<ServedBase> bases;  // the registry's, in its order; not empty
  AdapterRegistry& registry;
  const ServerOptions& options;
  AdapterTexts& texts;
  Metrics metrics;
  std::atomic<int> load{0};  // generation requests being served
  /// Runs work that reads disks (adapter loads), one at a time, away from the HTTP threads.
  std::function<void(std::function<void()>)> run_loading;
  /// Runs work that computes and reads an adapter's texts, away from the HTTP threads.
  std::function<void(std::function<void()>)> run_computing;
};

/// Which weights a request's `model` means.
struct ModelChoice {
  const ServedBase* base = nullptr;            // never null; as the adapter changes it
  std::string echoed;                          // the answer's "model"
  std::string adapter;                         // in metrics; empty: the base model
  AdapterLease lease;                          // null: the base model
  std::shared_ptr<const ServedBase> own_text;  // what `base` points to when it is the adapter's own
};

/// `name` is a base model, an adapter, or adapters joined by '+', each with weight 1; `adapters`, unless
/// empty, are put on the base model that `name` names. Throws vLLM's 404 for an unknown name, and what
/// AdapterRegistry::stack throws.
ModelChoice choose_model(const ServeContext& context, const std::string& name,
                         std::span<const WeightedName> adapters = {});

/// Whose rules a body is read by: those of the base model that its `model` stands for, or the first one's
/// when it stands for none; choose_model() says so once the body is known to be sound otherwise.
RequestRules rules_for(const ServeContext& context, const Json& body);

/// The base model that is served under this name, the first one under an empty name; null: none.
const ServedBase* find_base(const ServeContext& context, const std::string& name);

/// Bodies above this many bytes are parsed and tokenized off the HTTP threads.
inline constexpr size_t kInlineBodyBytes = 16 * 1024;

/// Gives the request's JSON body to `work`, here or, when the body is large or what its adapter's folder says
/// about text was not read yet, on a computing thread. What `work` throws becomes the answer. Throws for a
/// body that is no JSON.
void prepare_answer(ServeContext& context, const std::shared_ptr<Exchange>& exchange,
                    std::function<void(const Json& body)> work);

// Each adds its routes; `context` outlives the router.
void add_completions_routes(Router& router, ServeContext& context);
void add_chat_routes(Router& router, ServeContext& context);
void add_models_routes(Router& router, ServeContext& context);
void add_tokenize_routes(Router& router, ServeContext& context);
void add_lora_routes(Router& router, ServeContext& context);
void add_service_routes(Router& router, ServeContext& context);  // /health, /version, /metrics, …

}  // namespace polylora
