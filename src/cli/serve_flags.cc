#include "cli/serve_flags.h"

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <CLI/Option.hpp>
#include <cstdlib>

#include "base/error.h"
#include "cli/args.h"

namespace polylora {
namespace {

/// A vLLM flag that is taken so that existing command lines work, and does nothing.
struct InertFlag {
  const char* name;
  int values;  // how many words follow; -1: any number
  const char* why;
};

constexpr InertFlag kInertFlags[] = {
    {"--tensor-parallel-size", 1, "the model runs in one process on one machine"},
    {"--pipeline-parallel-size", 1, "the model runs in one process on one machine"},
    {"--data-parallel-size", 1, "the model runs in one process on one machine"},
    {"--gpu-memory-utilization", 1,
     "there is no GPU memory to share; see --kv-cache-memory and --lora-memory"},
    {"--cpu-offload-gb", 1, "everything is in main memory already"},
    {"--swap-space", 1, "preempted requests are recomputed, not swapped"},
    {"--trust-remote-code", 0, "no code is ever loaded from a model folder"},
    {"--enforce-eager", 0, "there are no captured graphs"},
    {"--load-format", 1, "the format is read from the files"},
    {"--fully-sharded-loras", 0, "nothing is sharded"},
    {"--disable-log-stats", 0, "statistics are on /metrics, not in the log"},
    {"--disable-log-requests", 0, "requests are not logged; see --disable-uvicorn-access-log"},
    {"--enable-log-requests", 0, "requests are not logged"},
    {"--tokenizer-mode", 1, "there is one tokenizer implementation"},
    {"--distributed-executor-backend", 1, "the model runs in one process"},
    {"--device", 1, "see --backend"},
    {"--compilation-config", 1, "nothing is compiled at run time"},
    {"--attention-backend", 1, "see --backend"},
    {"--specialize-active-lora", 0, "every adapter runs at its own rank already"},
    {"--lora-extra-vocab-size", 1, "adapters with added tokens are not supported"},
    {"--max-lora-cls-labels", 1, "there are no classification adapters"},
    {"--enable-mixed-moe-lora-format", 0, "there are no mixture-of-experts adapters"},
    {"--enable-moe-shared-loras", 0, "there are no mixture-of-experts adapters"},
    {"--enable-tower-connector-lora", 0, "there are no multi-modal models"},
    {"--stream-interval", 1, "every token is streamed as it comes"},
    {"--uvicorn-log-level", 1, "see --disable-uvicorn-access-log"},
};

void add_model_flags(CLI::App& app, ServeFlags& flags) {
  const char* group = "ModelConfig";
  app.add_option("model", flags.load.model, "Hugging Face model folder or .gguf file")->required();
  app.add_option("--served-model-name", flags.served_model_names,
                 "names the base answers to; default: the model path")
      ->group(group);
  app.add_option("--tokenizer", flags.load.tokenizer,
                 "folder or tokenizer.json to use instead of the model's")
      ->group(group);
  app.add_flag("--skip-tokenizer-init", flags.load.skip_tokenizer_init, "serve token-id prompts only")
      ->group(group);
  app.add_option("--dtype", flags.load.dtype,
                 "auto, float32, bfloat16; auto keeps GGUF blocks and holds HF weights as bfloat16")
      ->group(group);
  app.add_option("--quantization,-q", flags.load.quantization, "q8 or q4: quantise an HF model while loading")
      ->group(group);
  app.add_option("--max-model-len", flags.max_model_len,
                 "most tokens of one request, prompt and output (4096, 8k, 8K, auto)")
      ->group(group);
  app.add_option("--max-logprobs", flags.server.max_logprobs, "most logprobs a request may ask for")
      ->group(group)
      ->capture_default_str();
  app.add_option("--seed", flags.engine.seed, "of requests that bring none")
      ->group(group)
      ->capture_default_str();
  app.add_option("--generation-config", flags.load.generation_config,
                 "auto (the model's), vllm (none), or a folder")
      ->group(group)
      ->capture_default_str();
}

void add_cache_flags(CLI::App& app, ServeFlags& flags) {
  const char* group = "CacheConfig";
  app.add_option("--kv-cache-memory,--kv-cache-memory-bytes", flags.kv_cache_memory,
                 "bytes for keys and values (512M, 2G); default: a quarter of the free memory, at most 4G")
      ->group(group);
  app.add_option("--kv-cache-dtype", flags.kv_cache_dtype, "auto, float32, bfloat16")
      ->group(group)
      ->capture_default_str();
  app.add_option("--block-size", flags.block_size, "tokens of a KV page; always 16")
      ->group(group)
      ->capture_default_str();
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", flags.engine.enable_prefix_caching,
               "reuse the KV pages of equal prompt beginnings (on)")
      ->group(group);
}

void add_lora_flags(CLI::App& app, ServeFlags& flags) {
  const char* group = "LoRAConfig";
  app.add_flag("--enable-lora", flags.server.enable_lora, "serve adapters beside the base")->group(group);
  app.add_option("--lora-modules", flags.lora_modules,
                 "name=path, a JSON object or list, or a folder of adapters; repeatable")
      ->group(group)
      ->expected(1, 100000);
  app.add_option("--max-loras", flags.engine.max_loras, "most adapters in one step; 0: any")
      ->group(group)
      ->capture_default_str();
  app.add_option("--max-lora-rank", flags.registry.max_lora_rank, "refuse adapters of a higher rank; 0: any")
      ->group(group)
      ->capture_default_str();
  app.add_option("--max-cpu-loras", flags.registry.max_cpu_loras,
                 "most adapters in memory; 0: as --lora-memory allows")
      ->group(group)
      ->capture_default_str();
  app.add_option("--lora-memory", flags.lora_memory,
                 "bytes for adapters in memory; the least recently used go back to disk")
      ->group(group)
      ->capture_default_str();
  app.add_option("--lora-dtype", flags.lora_dtype, "auto, float32, bfloat16; auto follows the base")
      ->group(group)
      ->capture_default_str();
}

void add_scheduler_flags(CLI::App& app, ServeFlags& flags) {
  const char* group = "SchedulerConfig";
  app.add_option("--max-num-seqs", flags.engine.max_num_seqs, "most requests computed at once")
      ->group(group)
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", flags.engine.max_num_batched_tokens, "most tokens of one step")
      ->group(group)
      ->capture_default_str();
  app.add_flag("--enable-chunked-prefill,!--no-enable-chunked-prefill", flags.engine.enable_chunked_prefill,
               "cut long prompts into steps (on)")
      ->group(group);
  app.add_option("--scheduling-policy", flags.scheduling_policy,
                 "fcfs or priority, within an adapter; between adapters it is always fair")
      ->group(group)
      ->capture_default_str();
  app.add_option("--max-num-queued-reqs", flags.engine.max_num_queued_reqs,
                 "beyond it requests get 503; 0: 4096")
      ->group(group)
      ->capture_default_str();
}

void add_frontend_flags(CLI::App& app, ServeFlags& flags) {
  const char* group = "Frontend";
  ServerOptions& server = flags.server;
  app.add_option("--host", server.host, "address to listen on")->group(group)->capture_default_str();
  app.add_option("--port", server.port, "0: any free one")->group(group)->capture_default_str();
  app.add_option("--uds", server.uds, "listen on this Unix socket instead")->group(group);
  app.add_option("--api-key", server.api_keys,
                 "required on every route but /health; repeatable; also VLLM_API_KEY")
      ->group(group);
  app.add_option("--chat-template", flags.load.chat_template, "file or inline Jinja")->group(group);
  app.add_option("--response-role", server.response_role, "role of chat answers")
      ->group(group)
      ->capture_default_str();
  app.add_option("--allowed-origins", server.allowed_origins, "CORS, JSON list")
      ->group(group)
      ->capture_default_str();
  app.add_option("--allowed-methods", server.allowed_methods, "CORS, JSON list")
      ->group(group)
      ->capture_default_str();
  app.add_option("--allowed-headers", server.allowed_headers, "CORS, JSON list")
      ->group(group)
      ->capture_default_str();
  app.add_flag("--allow-credentials", server.allow_credentials, "CORS")->group(group);
  app.add_option("--ssl-keyfile", server.ssl_keyfile, "PEM")->group(group);
  app.add_option("--ssl-certfile", server.ssl_certfile, "PEM")->group(group);
  app.add_option("--root-path", server.root_path, "path prefix of a reverse proxy")->group(group);
  app.add_flag("--enable-request-id-headers", server.enable_request_id_headers, "answer with X-Request-Id")
      ->group(group);
  app.add_flag("!--disable-uvicorn-access-log,!--disable-access-log", server.access_log,
               "no line per request")
      ->group(group);
  app.add_flag("--enable-prompt-tokens-details", server.enable_prompt_tokens_details,
               "usage tells cached tokens")
      ->group(group);
  app.add_flag("--enable-force-include-usage", server.enable_force_include_usage, "usage in every stream")
      ->group(group);
  app.add_option("--shutdown-timeout", flags.shutdown_timeout_s,
                 "seconds that running requests get on SIGTERM")
      ->group(group)
      ->capture_default_str();
}

void add_machine_flags(CLI::App& app, ServeFlags& flags) {
  app.add_option("--backend", flags.load.backend, "cpu, or ref (slow reference loops)")
      ->group("ParallelConfig")
      ->capture_default_str();
  app.add_option("--threads", flags.load.threads, "compute threads; 0: one per CPU")
      ->group("ParallelConfig")
      ->capture_default_str();
}

bool is_true(const char* text) {
  const std::string value = text == nullptr ? "" : text;
  return value == "1" || value == "true" || value == "True";
}

DType parse_float_dtype(const std::string& text, const char* flag, DType automatic) {
  if (text == "auto") return automatic;
  if (text == "float32" || text == "float") return DType::kF32;
  if (text == "bfloat16") return DType::kBf16;
  if (text == "float16" || text == "half") {
    warn(fmt::format("{} {}: held as bfloat16", flag, text));
    return DType::kBf16;
  }
  fail(ErrorCode::kInvalidArgument, "{} {} is unknown; known: auto, float32, bfloat16", flag, text);
}

void read_environment(ServeFlags& flags) {
  if (const char* key = std::getenv("VLLM_API_KEY");
      key != nullptr && *key != '\0' && flags.server.api_keys.empty()) {
    flags.server.api_keys.push_back(key);
  }
  flags.server.allow_runtime_lora_updating = is_true(std::getenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING"));
  if (const char* seconds = std::getenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE")) {
    flags.server.keep_alive_timeout =
        std::chrono::seconds(parse_size(seconds, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"));
  }
}

void check_ranges(const ServeFlags& flags) {
  const auto at_least = [](int64_t value, int64_t least, const char* flag) {
    if (value < least)
      fail(ErrorCode::kInvalidArgument, "{} must be at least {}, not {}", flag, least, value);
  };
  at_least(flags.engine.max_num_seqs, 1, "--max-num-seqs");
  at_least(flags.engine.max_num_batched_tokens, 1, "--max-num-batched-tokens");
  at_least(flags.engine.max_loras, 0, "--max-loras");
  at_least(flags.registry.max_lora_rank, 0, "--max-lora-rank");
  at_least(flags.engine.max_num_queued_reqs, 0, "--max-num-queued-reqs");
  at_least(flags.server.max_logprobs, -1, "--max-logprobs");
  at_least(flags.shutdown_timeout_s, 0, "--shutdown-timeout");
  at_least(flags.load.threads, 0, "--threads");
  if (flags.registry.max_cpu_loras != 0)
    at_least(flags.registry.max_cpu_loras, flags.engine.max_loras, "--max-cpu-loras");
  if (flags.block_size != kKvPageSize)
    fail(ErrorCode::kInvalidArgument, "--block-size {} is not supported; it is always {}", flags.block_size,
         kKvPageSize);
  if (flags.scheduling_policy != "fcfs" && flags.scheduling_policy != "priority") {
    fail(ErrorCode::kInvalidArgument, "--scheduling-policy {} is unknown; known: fcfs, priority",
         flags.scheduling_policy);
  }
  if (!flags.lora_modules.empty() && !flags.server.enable_lora) {
    fail(ErrorCode::kInvalidArgument, "LoRA is not enabled. Use --enable-lora to enable LoRA.");
  }
}

}  // namespace

void add_serve_flags(CLI::App& app, ServeFlags& flags) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  add_model_flags(app, flags);
  add_cache_flags(app, flags);
  add_lora_flags(app, flags);
  add_scheduler_flags(app, flags);
  add_machine_flags(app, flags);
  add_frontend_flags(app, flags);
  app.add_option("--config", "YAML file of these flags; the command line wins")->group("Frontend");
  for (const InertFlag& inert : kInertFlags) {
    if (inert.values == 0) {
      app.add_flag(inert.name, inert.why)->group("Accepted for vLLM's sake, without effect");
    } else {
      app.add_option(inert.name, inert.why)->group("Accepted for vLLM's sake, without effect");
    }
  }
}

void finish_serve_flags(const CLI::App& app, ServeFlags& flags) {
  for (const InertFlag& inert : kInertFlags) {
    if (app.count(inert.name) > 0) warn(fmt::format("{} has no effect here: {}", inert.name, inert.why));
  }
  check_ranges(flags);
  read_environment(flags);
  flags.engine.priority_scheduling = flags.scheduling_policy == "priority";
  if (flags.max_model_len != "auto" && flags.max_model_len != "-1") {
    const size_t length = parse_size(flags.max_model_len, "--max-model-len");
    if (length < 1 || length > (size_t{1} << 30))
      fail(ErrorCode::kInvalidArgument, "--max-model-len {} is out of range", flags.max_model_len);
    flags.engine.max_model_len = static_cast<int>(length);
  }
  if (!flags.kv_cache_memory.empty())
    flags.engine.kv_cache_bytes = parse_size(flags.kv_cache_memory, "--kv-cache-memory");
  flags.registry.memory_bytes = parse_size(flags.lora_memory, "--lora-memory");
  // auto becomes known with the model; say now what is a typing error.
  flags.engine.kv_cache_dtype =
      parse_float_dtype(flags.kv_cache_dtype, "--kv-cache-dtype", flags.engine.kv_cache_dtype);
  flags.registry.dtype = parse_float_dtype(flags.lora_dtype, "--lora-dtype", flags.registry.dtype);
  if (flags.served_model_names.empty()) flags.served_model_names = {flags.load.model};
}

}  // namespace polylora
