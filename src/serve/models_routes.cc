// GET /v1/models and GET /v1/lora_adapters
#include <fmt/format.h>

#include <chrono>
#include <random>

#include "serve/serve_context.h"

namespace polylora {

namespace {

Json permission(int64_t now) {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  Json json;
  json["id"] = fmt::format("modelperm-{:016x}", generator());
  json["object"] = "model_permission";
  json["created"] = now;
  json["allow_create_engine"] = false;
  json["allow_sampling"] = true;
  json["allow_logprobs"] = true;
  json["allow_search_indices"] = false;
  json["allow_view"] = true;
  json["allow_fine_tuning"] = false;
  json["organization"] = "*";
  json["group"] = nullptr;
  json["is_blocking"] = false;
  return json;
}

Json model_card(const std::string& id, const std::string& root, Json parent, Json max_model_len) {
  const int64_t now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  Json json;
  json["id"] = id;
  json["object"] = "model";
  json["created"] = now;
  json["owned_by"] = "polylora";
  json["root"] = root;
  json["parent"] = std::move(parent);
  json["max_model_len"] = std::move(max_model_len);
  json["permission"] = Json::array({permission(now)});
  return json;
}

std::string list_models(const ServeContext& context) {
  Json data = Json::array();
  for (const ServedBase& base : context.bases)
    for (const std::string& name : base.model.names)
      data.push_back(model_card(name, base.model.root, nullptr, base.engine.options().max_model_len));
  for (const AdapterInfo& adapter : context.registry.list())
    data.push_back(model_card(adapter.name, adapter.path.string(), adapter.base_model_name, nullptr));
  Json body;
  body["object"] = "list";
  body["data"] = std::move(data);
  return dump_json(body);
}

std::string list_adapters(const ServeContext& context) {
  Json data = Json::array();
  for (const AdapterInfo& adapter : context.registry.list()) {
    Json json;
    json["lora_name"] = adapter.name;
    json["lora_path"] = adapter.path.string();
    json["generation"] = adapter.generation;
    json["rank"] = adapter.rank;
    json["bytes"] = adapter.bytes;
    json["resident"] = adapter.resident;
    json["load_seconds"] = adapter.load_seconds >= 0 ? Json(adapter.load_seconds) : Json();
    data.push_back(std::move(json));
  }
  Json body;
  body["object"] = "list";
  body["resident_bytes"] = context.registry.resident_bytes();
  body["data"] = std::move(data);
  return dump_json(body);
}

}  // namespace

void add_models_routes(Router& router, ServeContext& context) {
  router.add("GET", "/v1/models", [&context](const std::shared_ptr<Exchange>& exchange) {
    exchange->respond(json_answer(list_models(context)));
  });
  router.add("GET", "/v1/lora_adapters", [&context](const std::shared_ptr<Exchange>& exchange) {
    exchange->respond(json_answer(list_adapters(context)));
  });
}

}  // namespace polylora
