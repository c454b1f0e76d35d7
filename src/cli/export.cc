// polylora export: merges adapters into a base model and writes the result.
#include "tune/merge/export.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>

#include "base/error.h"
#include "cli/console.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "hub/model_sources.h"

namespace polylora {
namespace {

constexpr std::string_view kUsage =
    R"(Merges LoRA adapters into a base model and writes it as a new one.

Usage: polylora export CONFIG.yaml [key=value …]

CONFIG.yaml is LLaMA-Factory's; key=value (or --key value) wins over it. Keys:
  model_name_or_path     the base: a Hugging Face folder, a .gguf file or a hub id (ORG/NAME[@REVISION])
  model_revision         of a hub id that names none (main)
  adapter_name_or_path   adapter folders, hub ids or URLs, comma-separated, merged in this order; none: the base is rewritten
  export_dir             where to
  export_size            GB per file (5)
  infer_dtype            auto, bfloat16, float16 or float32; auto: the base's own, bfloat16 if that is float32
  format                 safetensors (a model folder), gguf (model.gguf) or gguf-lora (adapter.gguf)
  template               the prompt format that the Ollama Modelfile describes
  threads                0: one per core
)";

void print_report(const ExportConfig& config, const ExportReport& result, double seconds) {
  const double megabytes = static_cast<double>(result.bytes) / 1e6;
  for (const std::string& notice : result.notices) print_line("polylora: note: " + notice);
  print_line(
      fmt::format("{}: {} tensors, {} of them merged; {:.1f} MB as {} in {} file{}; {:.1f} s, {:.0f} MB/s",
                  config.export_dir.string(), result.tensors, result.merged, megabytes, result.dtype,
                  result.files.size(), result.files.size() == 1 ? "" : "s", seconds, megabytes / seconds));
}

/// Hub ids and URLs become the paths of what is downloaded.
void find_sources(ExportConfig& config) {
  ProgressBar bar;
  const ModelSources sources({.progress = bar.callback(), .say = print_line});
  config.model_name_or_path = sources.find_model(config.model_name_or_path, config.model_revision).string();
  for (std::string& adapter : config.adapter_name_or_path) adapter = sources.find_adapter(adapter).string();
}

/// The first interrupt lets the export tidy up; a second one does not wait.
ExportReport run_interruptible(const ExportConfig& config, SignalWatcher& signals) {
  std::atomic<bool> cancelled = false;
  ProgressBar bar;
  const SignalWatcher::Scope scope(signals, [&cancelled] {
    if (cancelled.exchange(true)) SignalWatcher::quit();
  });
  return export_model(config, bar.callback(), &cancelled);
}

}  // namespace

int run_export(const Arguments& arguments) {
  if (arguments.empty() || arguments.front() == "--help" || arguments.front() == "-h") {
    fmt::print("{}", kUsage);
    return arguments.empty() ? 2 : 0;
  }
  SignalWatcher signals;
  ExportConfig config = read_export_config(arguments.front(), {arguments.begin() + 1, arguments.end()});
  for (const std::string& notice : config.notices) print_line("polylora: note: " + notice);
  find_sources(config);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const ExportReport result = run_interruptible(config, signals);
  print_report(config, result, std::chrono::duration<double>(Clock::now() - start).count());
  return 0;
}

}  // namespace polylora
