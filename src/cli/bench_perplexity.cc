// polylora bench perplexity: what formats of weights, KV cache and adapters cost in quality.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "cli/bench.h"
#include "cli/console.h"
#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/perplexity.h"
#include "cli/serve_flags.h"
#include "cli/values.h"
#include "io/adapter_file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

struct PerplexityFlags {
  std::string model;
  std::string tokenizer;
  std::string data;
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  std::string lora_dtype = "auto";
  std::vector<std::string> lora_modules;
  int context = PerplexityOptions().context;
  int max_tokens = 30720;
  int threads = 0;
  std::string json;
};

void add_flags(FlagSet& flags, PerplexityFlags& values) {
  flags.positional("model", values.model,
                   "a Hugging Face folder (config.json + safetensors) or a .gguf file");
  flags.text("--tokenizer", values.tokenizer, "PATH",
             "tokenizer.json, or a folder with one (default: the model's)");
  flags.text("--data", values.data, "FILE",
             "a text, or JSON records whose instruction, input and output are the text");
  flags.text("--dtype", values.dtype, "DTYPE[,DTYPE]", "as serve's, or q8 or q4 as its --quantization");
  flags.text("--kv-cache-dtype", values.kv_cache_dtype, "DTYPE[,DTYPE]", "as serve's");
  flags.list("--lora-modules", values.lora_modules, "ITEM",
             "measure these adapters, as serve's, not the base model");
  flags.text("--lora-dtype", values.lora_dtype, "DTYPE[,DTYPE]", "as serve's");
  flags.integer("--context", values.context, 2,
                "tokens of a window; each is predicted from those before it there");
  flags.integer("--max-tokens", values.max_tokens, 0, "how much of the text; 0: all");
  flags.integer("--threads", values.threads, 0, "0: one per core");
  flags.text("--json", values.json, "FILE", "write the table there too");
}

/// The text of alpaca records: their fields, a line each.
std::string text_of_records(const nlohmann::json& records, const std::string& file) {
  if (!records.is_array()) fail(ErrorCode::kDataCorrupt, "--data: {} is not a JSON list of records", file);
  std::string text;
  for (const nlohmann::json& record : records) {
    for (const char* field : {"instruction", "input", "output"}) {
      const auto found = record.find(field);
      if (found == record.end() || !found->is_string() || found->empty()) continue;
      const std::string value = found->get<std::string>();
      if (!value.empty()) text += value + "\n";
    }
  }
  return text;
}

std::string read_data(const std::string& file) {
  if (file.empty())
    fail(ErrorCode::kInvalidArgument, "bench perplexity: which text? Name a file with --data");
  return file.ends_with(".json") ? text_of_records(read_json_file(file), file) : read_text_file(file);
}

/// Flags of `serve` that ask for these formats, so that they mean here what they mean there.
ServeFlags serve_flags(const PerplexityFlags& asked, const std::string& dtype,
                       const std::string& kv_cache_dtype, const std::string& lora_dtype) {
  ServeFlags values;
  FlagSet flags("bench perplexity", "");
  add_serve_flags(flags, values);
  const bool quantized = dtype == "q8" || dtype == "q4";
  flags.parse({asked.model, "--enable-lora", quantized ? "--quantization" : "--dtype", dtype,
               "--kv-cache-dtype", kv_cache_dtype, "--lora-dtype", lora_dtype});
  values.load.tokenizer = asked.tokenizer;
  values.load.backend.threads = asked.threads;
  values.resolve();
  return values;
}

struct Row {
  std::string dtype, kv_cache_dtype, adapter, lora_dtype;
  TextLikelihood text;
  double tokens_per_second = 0;
};

class PerplexityBench {
 public:
  explicit PerplexityBench(const PerplexityFlags& flags)
      : flags_(flags),
        dtypes_(split_list("--dtype", flags.dtype)),
        kv_dtypes_(split_list("--kv-cache-dtype", flags.kv_cache_dtype)),
        lora_dtypes_(split_list("--lora-dtype", flags.lora_dtype)),
        text_(read_data(flags.data)),
        adapters_(parse_lora_modules(flags.lora_modules)) {}

  void run() {
    for (const std::string& dtype : dtypes_) measure_weights(dtype);
    if (flags_.json.empty()) return;
    write_file_atomic(flags_.json, results_.dump(2) + "\n");
  }

 private:
  void measure_weights(const std::string& dtype) {
    const LoadedModel loaded =
        load_with_progress(serve_flags(flags_, dtype, kv_dtypes_[0], lora_dtypes_[0]).load);
    const std::vector<int32_t> tokens = tokens_of(loaded);
    for (const std::string& kv : kv_dtypes_) {
      if (adapters_.empty()) {
        const ServeFlags formats = serve_flags(flags_, dtype, kv, lora_dtypes_[0]);
        measure(loaded, tokens, formats, nullptr, {dtype, kv, "", "", {}, 0});
      }
      for (const LoraModule& module : adapters_) {
        const AdapterFile file(module.path, loaded.model->config);
        if (file.vocab_size() != loaded.model->config.vocab_size)
          fail(ErrorCode::kUnsupported, "{}: an adapter with a vocabulary of its own", module.path.string());
        for (const std::string& lora : lora_dtypes_) {
          const ServeFlags formats = serve_flags(flags_, dtype, kv, lora);
          const std::unique_ptr<Adapter> adapter =
              file.load(*loaded.model, *loaded.backend, formats.adapter_dtype);
          measure(loaded, tokens, formats, adapter.get(), {dtype, kv, module.name, lora, {}, 0});
        }
      }
    }
  }

  static LoadedModel load_with_progress(const LoadOptions& options) {
    ProgressBar bar;
    return load(options, bar.callback());
  }

  std::vector<int32_t> tokens_of(const LoadedModel& loaded) const {
    std::vector<int32_t> tokens = loaded.tokenizer->encode(text_, /*add_special_tokens=*/true);
    if (flags_.max_tokens > 0) tokens.resize(std::min(tokens.size(), static_cast<size_t>(flags_.max_tokens)));
    return tokens;
  }

  void measure(const LoadedModel& loaded, const std::vector<int32_t>& tokens, const ServeFlags& formats,
               const Adapter* adapter, Row row) {
    const auto start = std::chrono::steady_clock::now();
    row.text = measure_likelihood(*loaded.model, *loaded.backend, tokens,
                                  {flags_.context, formats.engine.kv_cache_dtype, adapter});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    row.tokens_per_second = static_cast<double>(tokens.size()) / seconds;
    print(row);
  }

  void print(const Row& row) {
    if (results_.empty()) {
      first_ = row.text.perplexity();
      fmt::print("{} tokens predicted, in windows of {}\n\n", row.text.predicted, flags_.context);
      fmt::print("{:10} {:10} {:14} {:10} {:>10} {:>11} {:>9} {:>9}\n", "weights", "KV cache", "adapter",
                 "held as", "nats/token", "perplexity", "to first", "tokens/s");
    }
    const double ratio = row.text.perplexity() / first_;
    fmt::print("{:10} {:10} {:14} {:10} {:10.4f} {:11.4f} {:+8.2f}% {:9.0f}\n", row.dtype, row.kv_cache_dtype,
               row.adapter, row.lora_dtype, row.text.nll, row.text.perplexity(), 100 * (ratio - 1),
               row.tokens_per_second);
    std::fflush(stdout);
    results_.push_back({{"dtype", row.dtype},
                        {"kv_cache_dtype", row.kv_cache_dtype},
                        {"adapter", row.adapter},
                        {"lora_dtype", row.lora_dtype},
                        {"tokens", row.text.predicted},
                        {"nats_per_token", row.text.nll},
                        {"perplexity", row.text.perplexity()},
                        {"ratio_to_first", ratio}});
  }

  const PerplexityFlags& flags_;
  const std::vector<std::string> dtypes_, kv_dtypes_, lora_dtypes_;
  const std::string text_;
  const std::vector<LoraModule> adapters_;
  double first_ = 0;  // perplexity of the first row
  nlohmann::ordered_json results_ = nlohmann::ordered_json::array();
};

}  // namespace

int run_bench_perplexity(const Arguments& arguments) {
  PerplexityFlags values;
  FlagSet flags("bench perplexity",
                "Measures how well a model predicts a text, in one format after the other.");
  add_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  PerplexityBench(values).run();
  return 0;
}

}  // namespace polylora
