#include "cli/model_flags.h"

#include <string_view>
#include <utility>

#include "base/error.h"
#include "cli/console.h"
#include "cli/values.h"
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

AdapterBase adapter_base(const LoadedModel& loaded, const ModelFlags& flags, std::vector<std::string> names) {
  return {.model = loaded.model.get(),
          .dtype = flags.adapter_dtype,
          .max_lora_rank = flags.max_lora_rank,
          .names = std::move(names),
          .path = flags.load.model,
          .fingerprint = base_fingerprint(*loaded.model)};
}

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

void add_parallel_flags(FlagSet& flags, ModelFlags& values) {
  flags.group("ParallelConfig");
  flags.integer("--threads", values.load.backend.threads, 0, "compute threads; 0: one per usable core");
  flags.choice("--backend", values.load.backend.name, {"cpu", "ref"}, "fast kernels, or the naive reference");
}

void add_model_flags(FlagSet& flags, ModelFlags& values) {
  add_checkpoint_flags(flags, values);
  add_parallel_flags(flags, values);
}

}  // namespace polylora
