#include "cli/serve_flags.h"

#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "cli/console.h"
#include "cli/fleet_flags.h"
#include "cli/values.h"
#include "cli/vllm_flags.h"
#include "model/fingerprint.h"
#include "ops/weight.h"

namespace polylora {
namespace {

constexpr size_t kDefaultLoraMemory = size_t{2} << 30;

/// The type that `spelling` stands for here, where f16 is computed as bf16.
DType element_type(std::string_view flag, const std::string& spelling, DType automatic) {
  if (spelling == "auto") return automatic;
  if (spelling == "float32" || spelling == "float") return DType::kF32;
  if (spelling == "int8") return DType::kI8;
  if (spelling == "float16" || spelling == "half") {
    warn("{} {}: computed as bfloat16", flag, spelling);
  }
  return DType::kBf16;
}

WeightPolicy weight_policy(const std::string& dtype, const std::string& quantization) {
  if (quantization == "q8") return WeightPolicy::kQ8;
  if (quantization == "q4") return WeightPolicy::kQ4;
  if (dtype == "auto") return WeightPolicy::kNative;
  return element_type("--dtype", dtype, DType::kBf16) == DType::kF32 ? WeightPolicy::kF32
                                                                     : WeightPolicy::kBf16;
}

void set_max_model_len(ModelFlags& values, const std::string& text) {
  values.fit_max_model_len = text == "auto" || text == "-1";
  values.engine.max_model_len = 0;
  if (values.fit_max_model_len) return;
  const int64_t length = parse_count("--max-model-len", text);
  if (length < 1 || length > (1 << 30)) {
    fail(ErrorCode::kInvalidArgument, "--max-model-len: {} is not a length that a request can have", text);
  }
  values.engine.max_model_len = static_cast<int>(length);
}

void require_block_size(const std::string& text) {
  if (text != fmt::to_string(kKvPageSize)) {
    fail(ErrorCode::kInvalidArgument, "--block-size: pages hold {} tokens here, not {}", kKvPageSize, text);
  }
}

void set_port(ServerOptions& server, const std::string& text) {
  const int64_t port = parse_count("--port", text);
  if (port < 0 || port > 65535) fail(ErrorCode::kInvalidArgument, "--port: {} is not in 0..65535", text);
  server.port = static_cast<uint16_t>(port);
}

void add_model_config(FlagSet& flags, BaseFlags& values) {
  flags.group("ModelConfig");
  flags.list("--served-model-name", values.served_model_name, "NAME",
             "names that `model` of a request may have; the first is echoed (default: MODEL)");
  flags.toggle("--skip-tokenizer-init", values.load.skip_tokenizer,
               "no text: requests and replies are token ids");
  flags.integer("--max-logprobs", values.max_logprobs, -1, "most logprobs a request may ask for; -1: all");
}

void add_scheduler_config(FlagSet& flags, BaseFlags& values) {
  flags.group("SchedulerConfig");
  flags.integer("--max-num-seqs", values.engine.max_num_seqs, 1, "requests computed at once");
  flags.custom("--max-num-batched-tokens", "N", "tokens computed in one step",
               fmt::to_string(values.engine.max_num_batched_tokens), [&values](const std::string& text) {
                 const int64_t rows = parse_count("--max-num-batched-tokens", text);
                 if (rows < 1 || rows > (1 << 20)) {
                   fail(ErrorCode::kInvalidArgument, "--max-num-batched-tokens: {} is not in 1..1M", text);
                 }
                 values.engine.max_num_batched_tokens = static_cast<int>(rows);
               });
  flags.integer("--max-num-queued-reqs", values.engine.max_num_queued_reqs, 0,
                "waiting requests beyond which new ones get a 503; 0: 4096");
  flags.custom("--scheduling-policy", "{fcfs,priority}", "fair over adapters, or by the requests' `priority`",
               "fcfs", [&values](const std::string& text) {
                 if (text != "fcfs" && text != "priority") {
                   fail(ErrorCode::kInvalidArgument, "--scheduling-policy: '{}' is not one of fcfs, priority",
                        text);
                 }
                 values.engine.priority_scheduling = text == "priority";
               });
  flags.toggle("--enable-chunked-prefill", values.engine.enable_chunked_prefill,
               "cut long prompts so that others go on");
  flags.number("--max-adapter-wait", values.engine.max_adapter_wait_s,
               "seconds after which a waiting adapter goes first");
}

void add_lora_config(FlagSet& flags, BaseFlags& values) {
  flags.group("LoRAConfig");
  flags.list("--lora-modules", values.lora_modules, "ITEM",
             "NAME=PATH, JSON {\"name\",\"path\"}, a JSON list, or a folder of adapters");
  flags.list("--lora-watch", values.lora_watch, "[NAME=]DIR",
             "output folders of training: each checkpoint-N is served as NAME@N once it is there");
  flags.integer("--max-loras", values.engine.max_loras, 0, "distinct adapters in one step; 0: any number");
  flags.custom(
      "--max-lora-rank", "N", "largest rank to accept; 0: any", fmt::to_string(values.max_lora_rank),
      [&values](const std::string& text) { values.max_lora_rank = parse_count("--max-lora-rank", text); });
  flags.choice("--lora-dtype", values.lora_dtype, {"auto", "float32", "bfloat16", "float16", "int8"},
               "type of A and B; auto: float32 with --dtype float32, else bfloat16; int8 halves their bytes");
}

void add_lora_memory(FlagSet& flags, ServeFlags& values) {
  flags.group("LoRAConfig");
  flags.toggle("--enable-lora", values.server.enable_lora, "serve adapters");
  flags.bytes("--lora-memory", values.adapters.memory_bytes,
              "memory for adapters; the least recently used are dropped");
  flags.integer("--max-cpu-loras", values.adapters.max_cpu_loras, 0,
                "most adapters in memory; 0: as --lora-memory allows");
  flags.list("--allowed-adapter-sources", values.sources.allowed_adapter_sources, "PREFIX",
             "what requests may load adapters from besides paths: ORG/ or ORG/NAME, https://…/, s3://…/");
  flags.bytes("--max-adapter-download", values.sources.max_adapter_download,
              "largest adapter to load from a URL", "2G");
}

void add_frontend(FlagSet& flags, ServeFlags& values) {
  ServerOptions& server = values.server;
  flags.group("Frontend");
  flags.text("--host", server.host, "ADDRESS", "address to listen on");
  flags.custom("--port", "N", "port to listen on; 0: a free one", fmt::to_string(server.port),
               [&server](const std::string& text) { set_port(server, text); });
  flags.text("--uds", server.uds, "PATH", "listen on this Unix socket instead");
  flags.list("--api-key", server.api_keys, "KEY", "keys that clients must send one of (or $VLLM_API_KEY)");
  flags.text("--root-path", server.root_path, "PREFIX", "prefix that a proxy puts before every path");
  flags.text("--response-role", server.response_role, "ROLE", "role of chat replies");
  flags.toggle("--enable-auto-tool-choice", server.enable_auto_tool_choice,
               "let the model decide whether to call tools; needs --tool-call-parser");
  flags.choice("--tool-call-parser", values.tool_call_parser, {"hermes", "llama3_json", "mistral"},
               "how the model writes tool calls (Qwen: hermes)");
  flags.toggle("--exclude-tools-when-tool-choice-none", server.exclude_tools_when_tool_choice_none,
               "with tool_choice none, keep the tools from the chat template");
  flags.toggle("--enable-prompt-tokens-details", server.enable_prompt_tokens_details,
               "report cached prompt tokens in `usage`");
  flags.toggle("--enable-force-include-usage", server.enable_force_include_usage, "`usage` in every stream");
  flags.toggle("--enable-request-id-headers", server.enable_request_id_headers, "answer with X-Request-Id");
  flags.toggle("--disable-uvicorn-access-log", values.disable_access_log, "do not log requests");
  flags.custom("--shutdown-timeout", "SECONDS", "how long SIGTERM waits for running requests",
               fmt::to_string(values.shutdown_timeout_s), [&values](const std::string& text) {
                 const int64_t seconds = parse_count("--shutdown-timeout", text);
                 if (seconds < 0 || seconds > (1 << 20)) {
                   fail(ErrorCode::kInvalidArgument, "--shutdown-timeout: {} seconds is senseless", text);
                 }
                 values.shutdown_timeout_s = static_cast<int>(seconds);
               });

  flags.group("Frontend: CORS and TLS");
  flags.text("--allowed-origins", server.allowed_origins, "JSON", "list of allowed origins");
  flags.text("--allowed-methods", server.allowed_methods, "JSON", "list of allowed methods");
  flags.text("--allowed-headers", server.allowed_headers, "JSON", "list of allowed headers");
  flags.toggle("--allow-credentials", server.allow_credentials, "allow credentials");
  flags.text("--ssl-certfile", server.ssl_certfile, "FILE", "certificate chain (PEM)");
  flags.text("--ssl-keyfile", server.ssl_keyfile, "FILE", "its private key (PEM)");
}

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

ModelFlags::ModelFlags() {
  adapters.memory_bytes = kDefaultLoraMemory;
}

void ModelFlags::resolve() {
  if (load.model.empty())
    fail(ErrorCode::kInvalidArgument, "which MODEL? Name a Hugging Face folder or a .gguf file");
  load.policy = weight_policy(dtype, quantization);
  const DType automatic = dtype == "float32" || dtype == "float" ? DType::kF32 : DType::kBf16;
  engine.kv_cache_dtype = element_type("--kv-cache-dtype", kv_cache_dtype, automatic);
  adapter_dtype = element_type("--lora-dtype", lora_dtype, automatic);
}

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

AdapterBase adapter_base(const LoadedModel& loaded, const ModelFlags& flags, std::vector<std::string> names) {
  return {.model = loaded.model.get(),
          .dtype = flags.adapter_dtype,
          .max_lora_rank = flags.max_lora_rank,
          .names = std::move(names),
          .path = flags.load.model,
          .fingerprint = base_fingerprint(*loaded.model)};
}

namespace {

void add_checkpoint_flags(FlagSet& flags, ModelFlags& values) {
  LoadOptions& load = values.load;
  flags.positional("model", load.model,
                   "a Hugging Face folder (config.json + safetensors), a .gguf file, or a hub id: "
                   "ORG/NAME[@REVISION][:FILE.gguf]");
  flags.group("ModelConfig");
  flags.text("--revision", load.revision, "NAME", "branch, tag or commit of a hub id (default: main)");
  flags.text("--tokenizer", load.tokenizer, "PATH",
             "tokenizer.json, or a folder with one (default: the model's)");
  flags.text("--chat-template", load.chat_template, "FILE|TEXT",
             "Jinja chat template (default: the model's)");
  flags.text("--generation-config", load.generation_config, "auto|vllm|PATH",
             "sampling defaults: the model's, none, or a file's");
  flags.choice("--dtype", values.dtype, {"auto", "float32", "float", "bfloat16", "half", "float16"},
               "type of the weights; auto: GGUF as stored, else bfloat16");
  flags.choice("--quantization", values.quantization, {"q8", "q4"}, "pack the weights in 8 or 4 bits");
  flags.custom("--max-model-len", "N",
               "tokens of one request: 1k = 1000, 1K = 1024; auto: what the cache holds", "the model's",
               [&values](const std::string& text) { set_max_model_len(values, text); });
  flags.custom("--seed", "N", "of requests that bring none", fmt::to_string(values.engine.seed),
               [&values](const std::string& text) {
                 values.engine.seed = static_cast<uint64_t>(parse_count("--seed", text));
               });

  flags.group("CacheConfig");
  flags.bytes("--kv-cache-memory", values.engine.kv_cache_bytes, "memory for keys and values",
              "1/4 of free memory, at most 4 GiB");
  flags.choice("--kv-cache-dtype", values.kv_cache_dtype, {"auto", "float32", "bfloat16", "int8"},
               "auto: float32 with --dtype float32, else bfloat16; int8: half the memory");
  flags.toggle("--enable-prefix-caching", values.engine.enable_prefix_caching,
               "reuse the KV of common prefixes");
  flags.custom("--block-size", "N", "tokens per KV page; only this value", fmt::to_string(kKvPageSize),
               require_block_size);
}

void add_parallel_config(FlagSet& flags, ModelFlags& values) {
  flags.group("ParallelConfig");
  flags.integer("--threads", values.load.backend.threads, 0, "compute threads; 0: one per usable core");
  flags.choice("--backend", values.load.backend.name, {"cpu", "ref"}, "fast kernels, or the naive reference");
}

}  // namespace

void add_model_flags(FlagSet& flags, ModelFlags& values) {
  add_checkpoint_flags(flags, values);
  add_parallel_config(flags, values);
}

void add_base_flags(FlagSet& flags, BaseFlags& values) {
  add_checkpoint_flags(flags, values);
  add_model_config(flags, values);
  add_scheduler_config(flags, values);
  add_lora_config(flags, values);
  add_vllm_flags(flags);
}

void add_serve_flags(FlagSet& flags, ServeFlags& values) {
  add_base_flags(flags, values);
  add_parallel_config(flags, values);
  flags.group("ModelConfig");
  flags.list("--bases", values.bases, "JSON",
             "several base models: the flags of one each, as {\"model\": …}; better as a list in --config");
  add_lora_memory(flags, values);
  add_frontend(flags, values);
}

}  // namespace polylora
