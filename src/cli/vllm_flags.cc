#include "cli/vllm_flags.h"

#include <initializer_list>
#include <string_view>

namespace polylora {
namespace {

/// Flags that are understood and do nothing, with the one reason they share.
struct IgnoredFlags {
  std::string_view why;
  std::initializer_list<const char*> with_value;
  std::initializer_list<const char*> switches;
};

const IgnoredFlags kIgnored[] = {
    {"one process computes on one machine",
     {"--tensor-parallel-size",
      "--pipeline-parallel-size",
      "--data-parallel-size",
      "--data-parallel-rank",
      "--data-parallel-start-rank",
      "--data-parallel-size-local",
      "--data-parallel-address",
      "--data-parallel-rpc-port",
      "--data-parallel-backend",
      "--prefill-context-parallel-size",
      "--decode-context-parallel-size",
      "--distributed-executor-backend",
      "--max-parallel-loading-workers",
      "--worker-cls",
      "--worker-extension-cls",
      "--nnodes",
      "--node-rank",
      "--master-addr",
      "--master-port",
      "--api-server-count",
      "--all2all-backend"},
     {"--enable-expert-parallel", "--enable-eplb", "--enable-dbo", "--disable-custom-all-reduce",
      "--ray-workers-use-nsight", "--headless", "--data-parallel-hybrid-lb", "--data-parallel-external-lb",
      "--disable-frontend-multiprocessing", "--fully-sharded-loras"}},
    {"the compute device is the CPU",
     {"--gpu-memory-utilization", "--swap-space", "--cpu-offload-gb", "--num-gpu-blocks-override",
      "--max-seq-len-to-capture", "--cuda-graph-sizes", "--compilation-config", "--optimization-level",
      "--attention-backend", "--device", "--kv-offloading-size", "--kv-offloading-backend"},
     {"--enforce-eager", "--disable-cascade-attn", "--enable-sleep-mode", "--calculate-kv-scales",
      "--specialize-active-lora"}},
    {"the model is read from the given path as it is",
     {"--load-format", "--download-dir", "--safetensors-load-strategy", "--model-loader-extra-config",
      "--ignore-patterns", "--pt-load-map-location", "--code-revision", "--tokenizer-revision", "--hf-token",
      "--config-format", "--model-impl", "--tokenizer-mode", "--runner", "--convert", "--task"},
     {"--use-tqdm-on-load", "--trust-remote-code", "--enforce-dtype-check"}},
    {"any rank is stored as it is, and mixed ranks share a batch",
     {"--lora-extra-vocab-size", "--long-lora-scaling-factors", "--max-lora-cls-labels"},
     {"--enable-lora-bias", "--enable-mixed-moe-lora-format", "--enable-moe-shared-loras",
      "--enable-tower-connector-lora"}},
    {"models here take text only",
     {"--limit-mm-per-prompt", "--mm-processor-kwargs", "--mm-processor-cache-gb", "--media-io-kwargs",
      "--default-mm-loras", "--allowed-local-media-path", "--interleave-mm-strings"},
     {"--disable-chunked-mm-input", "--skip-mm-profiling", "--disable-mm-preprocessor-cache"}},
    {"the scheduler decides that itself",
     {"--num-scheduler-steps", "--max-num-partial-prefills", "--max-long-partial-prefills",
      "--long-prefill-token-threshold", "--num-lookahead-slots", "--scheduler-delay-factor",
      "--preemption-mode", "--scheduler-cls", "--stream-interval", "--max-num-queued-tokens",
      "--prefix-caching-hash-algo"},
     {"--async-scheduling", "--multi-step-stream-outputs", "--disable-hybrid-kv-cache-manager"}},
    {"/metrics and the access log are all there is",
     {"--otlp-traces-endpoint", "--collect-detailed-traces", "--show-hidden-metrics-for-version",
      "--uvicorn-log-level", "--log-config-file", "--max-log-len", "--disable-access-log-for-endpoints"},
     {"--disable-log-stats", "--disable-log-requests", "--enable-log-requests", "--enable-log-outputs",
      "--enable-log-deltas", "--log-error-stack", "--kv-cache-metrics", "--cudagraph-metrics",
      "--enable-server-load-tracking", "--disable-fastapi-docs"}},
    {"the HTTP server has limits of its own",
     {"--h11-max-incomplete-event-size", "--h11-max-header-count", "--sse-keep-alive-interval",
      "--chat-template-content-format"},
     {"--enable-ssl-refresh", "--enable-tokenizer-info-endpoint"}},
    {"tool calls are not parsed; requests that want them are refused",
     {"--tool-call-parser", "--tool-parser-plugin"},
     {"--enable-auto-tool-choice", "--exclude-tools-when-tool-choice-none"}},
    {"reasoning stays part of the text", {"--reasoning-parser", "--reasoning-parser-plugin"}, {}},
    {"speculation never changes answers, and this server does without", {"--speculative-config"}, {}},
};

struct RefusedFlag {
  const char* name;
  std::string_view why;
};

constexpr RefusedFlag kRefused[] = {
    {"--hf-overrides", "edit the model's config.json"},
    {"--hf-config-path", "the model's own config.json is read"},
    {"--rope-scaling", "edit the model's config.json"},
    {"--rope-theta", "edit the model's config.json"},
    {"--override-generation-config", "name a file with --generation-config"},
    {"--logits-processors", "there are no plug-ins"},
    {"--middleware", "there are no plug-ins"},
    {"--lora-target-modules", "every module that an adapter's file has is applied"},
    {"--return-tokens-as-token-ids", "ask for it in the request"},
    {"--disable-sliding-window", "the model decides which tokens it attends to"},
    {"--ssl-ca-certs", "client certificates are not checked; put a proxy in front"},
    {"--ssl-cert-reqs", "client certificates are not checked; put a proxy in front"},
};

}  // namespace

void add_vllm_flags(FlagSet& flags) {
  for (const IgnoredFlags& ignored : kIgnored) {
    for (const char* name : ignored.with_value) flags.ignored(name, /*takes_value=*/true, ignored.why);
    for (const char* name : ignored.switches) flags.ignored(name, /*takes_value=*/false, ignored.why);
  }
  for (const RefusedFlag& refused : kRefused) flags.refused(refused.name, refused.why);

  flags.alias("--kv-cache-memory-bytes", "--kv-cache-memory");
  flags.alias("-q", "--quantization");
  flags.alias("-tp", "--tensor-parallel-size");
  flags.alias("-pp", "--pipeline-parallel-size");
  flags.alias("-dp", "--data-parallel-size");
  flags.alias("-asc", "--api-server-count");
  flags.alias("-cc", "--compilation-config");
  flags.alias("-O", "--optimization-level");
}

}  // namespace polylora
