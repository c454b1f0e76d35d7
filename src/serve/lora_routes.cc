// POST /v1/load_lora_adapter and /v1/unload_lora_adapter: exist only with runtime updating allowed.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>

#include "serve/api_error.h"
#include "serve/field_reader.h"
#include "serve/path_sanitizer.h"
#include "serve/serve_context.h"

namespace polylora {

namespace {

constexpr size_t kMaxNameBytes = 256;

struct LoadRequest {
  std::string name;
  std::string path;
  std::string base_model_name;
  bool in_place = false;
};

[[noreturn]] void fail_user_input(const std::string& message) {
  throw RequestError(ErrorCode::kInvalidArgument, message, "", "InvalidUserInput");
}

LoadRequest parse_load(const HttpRequest& http) {
  require_json_content_type(http.headers.get("content-type"));
  const Json json = parse_json_body(http.body);
  FieldReader fields(json);
  fields.require("lora_name");
  fields.require("lora_path");
  LoadRequest request;
  request.name = fields.string("lora_name").value_or("");
  request.path = fields.string("lora_path").value_or("");
  request.base_model_name = fields.string("base_model_name").value_or("");
  request.in_place = fields.boolean("load_inplace").value_or(false);
  fields.finish();
  return request;
}

[[noreturn]] void fail_already_loaded(const std::string& name) {
  fail_user_input(
      fmt::format("The lora adapter '{}' has already been loaded. If you want to load the adapter in place, "
                  "set 'load_inplace' to True.",
                  name));
}

void check_load(const ServeContext& context, const LoadRequest& request) {
  if (!context.options.enable_lora)
    fail(ErrorCode::kInvalidArgument, "LoRA is not enabled. Use --enable-lora to enable LoRA.");
  if (request.name.empty() || request.path.empty())
    fail_user_input("Both 'lora_name' and 'lora_path' must be provided.");
  if (request.name.size() > kMaxNameBytes)
    fail_user_input(fmt::format("'lora_name' can have at most {} bytes.", kMaxNameBytes));
  if (request.path.find('\0') != std::string::npos)
    fail_user_input("'lora_path' must not contain a NUL byte.");
  if (find_base(context, request.name) != nullptr)
    fail_user_input(fmt::format("The lora adapter '{}' conflicts with a served base model.", request.name));
  if (!request.in_place && context.registry.lease(request.name)) fail_already_loaded(request.name);
}

/// On the loading thread.
void load(const ServeContext& context, const LoadRequest& request) {
  try {
    const auto& find = context.options.find_adapter;
    const std::filesystem::path path = find ? find(request.path) : std::filesystem::path(request.path);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored))
      fail(ErrorCode::kNotFound, "Loading lora {} failed: No adapter found for {}", request.name,
           request.path);
    context.registry.add(request.name, path, AdapterRegistry::LoadMode::kNow, request.in_place,
                         request.base_model_name);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kAlreadyExists) fail_already_loaded(request.name);
    spdlog::warn("loading adapter '{}' from {} failed: {}", request.name, request.path, error.what());
    throw Error(error.code(), sanitize_paths(error.what()));
  }
}

HttpResponse success(const std::string& name, const char* what) {
  return plain_answer(fmt::format("Success: LoRA adapter '{}' {} successfully.", name, what));
}

void answer_load(const ServeContext& context, const std::shared_ptr<Exchange>& exchange) {
  const LoadRequest request = parse_load(exchange->request());
  check_load(context, request);
  context.run_loading([&context, exchange, request] {
    answer_errors(exchange, [&] {
      load(context, request);
      exchange->respond(success(request.name, "added"));
    });
  });
}

void answer_unload(ServeContext& context, const std::shared_ptr<Exchange>& exchange) {
  require_json_content_type(exchange->request().headers.get("content-type"));
  const Json json = parse_json_body(exchange->request().body);
  FieldReader fields(json);
  fields.require("lora_name");
  const std::string name = fields.string("lora_name").value_or("");
  fields.finish();
  if (name.empty()) fail_user_input("'lora_name' needs to be provided to unload a LoRA adapter.");
  if (!context.registry.remove(name))
    fail(ErrorCode::kNotFound, "The lora adapter '{}' cannot be found.", name);
  context.metrics.adapter_unloaded(name);
  exchange->respond(success(name, "removed"));
}

}  // namespace

void add_lora_routes(Router& router, ServeContext& context) {
  if (!context.options.allow_runtime_lora_updating) return;
  router.add("POST", "/v1/load_lora_adapter",
             [&context](const std::shared_ptr<Exchange>& exchange) { answer_load(context, exchange); });
  router.add("POST", "/v1/unload_lora_adapter",
             [&context](const std::shared_ptr<Exchange>& exchange) { answer_unload(context, exchange); });
}

}  // namespace polylora
