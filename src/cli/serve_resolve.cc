// What the flags of `serve` and its environment mean together.
#include <array>
#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "cli/fleet_flags.h"
#include "cli/serve_flags.h"
#include "cli/values.h"

namespace polylora {
namespace {

struct EnvironmentLimit {
  const char* name;
  int ServerOptions::*value;
};
constexpr std::array<EnvironmentLimit, 3> kEnvironmentLimits = {{
    {"VLLM_MAX_N_SEQUENCES", &ServerOptions::max_n},
    {"VLLM_MAX_COMPLETION_PROMPTS", &ServerOptions::max_prompts},
    {"VLLM_MAX_STOP_STRINGS", &ServerOptions::max_stop_strings},
}};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void read_environment(ServerOptions& server) {
  if (const std::string key = environment("VLLM_API_KEY"); server.api_keys.empty() && !key.empty()) {
    server.api_keys.push_back(key);
  }
  const std::string updating = environment("VLLM_ALLOW_RUNTIME_LORA_UPDATING");
  server.allow_runtime_lora_updating = updating == "1" || updating == "true" || updating == "True";
  if (const std::string seconds = environment("VLLM_HTTP_TIMEOUT_KEEP_ALIVE"); !seconds.empty()) {
    server.keep_alive_timeout = std::chrono::seconds(parse_count("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", seconds));
  }
  for (const EnvironmentLimit& limit : kEnvironmentLimits) {
    if (const std::string text = environment(limit.name); !text.empty()) {
      server.*limit.value = static_cast<int>(parse_count(limit.name, text));
    }
  }
}

void check_sources(const SourceOptions& sources) {
  for (const std::string& prefix : sources.allowed_adapter_sources) {
    if (prefix.find('/') == std::string::npos)
      fail(ErrorCode::kInvalidArgument,
           "--allowed-adapter-sources: '{}' must name a part of the hub (ORG/) or a URL (https://HOST/)",
           prefix);
  }
}

/// Of the flags of one base, or of those that hold for all.
void check_combinations(const BaseFlags& values, const ServeFlags& all) {
  if (!(values.lora_modules.empty() && values.lora_watch.empty()) && !all.server.enable_lora) {
    fail(ErrorCode::kInvalidArgument, "LoRA is not enabled. Use --enable-lora to enable LoRA.");
  }
  const int most_in_memory = all.adapters.max_cpu_loras;
  if (most_in_memory != 0 && most_in_memory < values.engine.max_loras) {
    fail(ErrorCode::kInvalidArgument, "--max-cpu-loras ({}) must be >= --max-loras ({})", most_in_memory,
         values.engine.max_loras);
  }
}

void check_server(const ServerOptions& server) {
  if (server.enable_auto_tool_choice && !server.tool_call_format) {
    fail(ErrorCode::kInvalidArgument, "--enable-auto-tool-choice requires --tool-call-parser");
  }
  if (server.ssl_certfile.empty() != server.ssl_keyfile.empty()) {
    fail(ErrorCode::kInvalidArgument, "TLS needs both --ssl-certfile and --ssl-keyfile");
  }
}

/// These flags' one model, with the adapters of no one in particular.
BaseFlags only_base(const BaseFlags& values) {
  BaseFlags base = values;
  base.lora_modules.clear();
  base.lora_watch.clear();
  return base;
}

}  // namespace

void BaseFlags::resolve() {
  ModelFlags::resolve();
  if (served_model_name.empty()) served_model_name.push_back(load.model);
}

void ServeFlags::resolve() {
  read_environment(server);
  server.access_log = !disable_access_log;
  server.tool_call_format = tool_call_format(tool_call_parser);
  check_server(server);
  check_sources(sources);
  check_combinations(*this, *this);
  if (bases.empty()) {
    BaseFlags::resolve();
    served.push_back(only_base(*this));
    return;
  }
  served = parse_bases(*this);
  for (const BaseFlags& base : served) check_combinations(base, *this);
}

}  // namespace polylora
