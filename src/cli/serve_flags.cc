#include "cli/serve_flags.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/values.h"
#include "cli/vllm_flags.h"

namespace polylora {
namespace {

/// A whole number within bounds, written as vLLM's counts are ("8k").
template <typename Integer>
void add_count(FlagSet& flags, const std::string& name, Integer& value, int64_t smallest, int64_t largest,
               const std::string& help, const std::string& metavar = "N") {
  flags.custom(
      name, metavar, help, fmt::to_string(value), [&value, name, smallest, largest](const std::string& text) {
        const int64_t count = parse_count(name, text);
        if (count < smallest || count > largest) {
          fail(ErrorCode::kInvalidArgument, "{}: {} is not in {}..{}", name, text, smallest, largest);
        }
        value = static_cast<Integer>(count);
      });
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
  add_count(flags, "--max-num-batched-tokens", values.engine.max_num_batched_tokens, 1, 1 << 20,
            "tokens computed in one step");
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
  add_count(flags, "--port", server.port, 0, 65535, "port to listen on; 0: a free one");
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
  add_count(flags, "--shutdown-timeout", values.shutdown_timeout_s, 0, 1 << 20,
            "how long SIGTERM waits for running requests", "SECONDS");
}

void add_cors_and_tls(FlagSet& flags, ServerOptions& server) {
  flags.group("Frontend: CORS and TLS");
  flags.text("--allowed-origins", server.allowed_origins, "JSON", "list of allowed origins");
  flags.text("--allowed-methods", server.allowed_methods, "JSON", "list of allowed methods");
  flags.text("--allowed-headers", server.allowed_headers, "JSON", "list of allowed headers");
  flags.toggle("--allow-credentials", server.allow_credentials, "allow credentials");
  flags.text("--ssl-certfile", server.ssl_certfile, "FILE", "certificate chain (PEM)");
  flags.text("--ssl-keyfile", server.ssl_keyfile, "FILE", "its private key (PEM)");
}

}  // namespace

void add_base_flags(FlagSet& flags, BaseFlags& values) {
  add_checkpoint_flags(flags, values);
  add_model_config(flags, values);
  add_scheduler_config(flags, values);
  add_lora_config(flags, values);
  add_vllm_flags(flags);
}

void add_serve_flags(FlagSet& flags, ServeFlags& values) {
  add_base_flags(flags, values);
  add_parallel_flags(flags, values);
  flags.group("ModelConfig");
  flags.list("--bases", values.bases, "JSON",
             "several base models: the flags of one each, as {\"model\": …}; better as a list in --config");
  add_lora_memory(flags, values);
  add_frontend(flags, values);
  add_cors_and_tls(flags, values.server);
}

}  // namespace polylora
