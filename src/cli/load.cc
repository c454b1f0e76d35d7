#include "cli/load.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

WeightPolicy weight_policy(const LoadOptions& options) {
  if (options.quantization == "q8") return WeightPolicy::kQ8;
  if (options.quantization == "q4") return WeightPolicy::kQ4;
  if (!options.quantization.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "--quantization {} is not supported; known: q8, q4 (GGUF files bring their own)",
         options.quantization);
  }
  const std::string& dtype = options.dtype;
  if (dtype == "auto") return WeightPolicy::kNative;
  if (dtype == "float32" || dtype == "float") return WeightPolicy::kF32;
  if (dtype == "bfloat16") return WeightPolicy::kBf16;
  if (dtype == "float16" || dtype == "half") {
    warn("--dtype " + dtype +
         ": weights are held as bfloat16, there is no float16 arithmetic on this backend");
    return WeightPolicy::kBf16;
  }
  fail(ErrorCode::kInvalidArgument, "--dtype {} is unknown; known: auto, float32, bfloat16, float16", dtype);
}

/// A bar that appears once the work has taken a second, on terminals only.
class ProgressBar {
 public:
  void operator()(std::string_view what, double fraction) {
    if (::isatty(STDERR_FILENO) == 0 || seconds_since(begin_) < 1.0) return;
    constexpr int kWidth = 30;
    const int filled = static_cast<int>(fraction * kWidth);
    fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {:3.0f} %", what, "", filled, "", kWidth - filled,
               100 * fraction);
    drawn_ = true;
  }
  void clear() const {
    if (drawn_) fmt::print(stderr, "\r\033[K");
  }

 private:
  Clock::time_point begin_ = Clock::now();
  bool drawn_ = false;
};

void load_tokenizer(const LoadOptions& options, LoadedModel& loaded) {
  const TextAssets& text = loaded.checkpoint->text();
  loaded.bos_token = text.bos_token;
  loaded.eos_token = text.eos_token;
  if (options.skip_tokenizer_init) return;
  std::string tokenizer_json = text.tokenizer_json, config_json = text.tokenizer_config_json;
  if (!options.tokenizer.empty()) {
    const fs::path path = options.tokenizer;
    const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
    tokenizer_json = read_text_file(fs::is_directory(path) ? path / "tokenizer.json" : path);
    config_json =
        fs::exists(folder / "tokenizer_config.json") ? read_text_file(folder / "tokenizer_config.json") : "";
  }
  if (tokenizer_json.empty()) {
    fail(ErrorCode::kNotFound,
         "{} has no tokenizer.json: give one with --tokenizer, or serve token ids only with "
         "--skip-tokenizer-init",
         options.model);
  }
  loaded.tokenizer = Tokenizer::from_json(tokenizer_json, config_json);
}

void load_chat_template(const LoadOptions& options, LoadedModel& loaded) {
  std::string source = loaded.checkpoint->text().chat_template;
  if (!options.chat_template.empty()) {
    const bool is_inline = options.chat_template.find_first_of("{}\n") != std::string::npos;
    source = is_inline ? options.chat_template : read_text_file(options.chat_template);
  }
  if (!source.empty()) loaded.chat_template = std::make_unique<ChatTemplate>(source);
}

void load_generation_config(const LoadOptions& options, LoadedModel& loaded) {
  loaded.generation_config = nlohmann::json::object();
  if (options.generation_config == "vllm") return;
  loaded.generation_config =
      options.generation_config == "auto"
          ? loaded.checkpoint->text().generation_config
          : read_json_file(fs::path(options.generation_config) / "generation_config.json");
}

}  // namespace

void warn(const std::string& message) {
  fmt::print(stderr, "polylora: warning: {}\n", message);
}

LoadedModel load(const LoadOptions& options) {
  const auto begin = Clock::now();
  const WeightPolicy policy = weight_policy(options);
  LoadedModel loaded;
  loaded.checkpoint = Checkpoint::open(options.model);
  load_tokenizer(options, loaded);
  load_chat_template(options, loaded);
  load_generation_config(options, loaded);
  loaded.backend = make_backend({.name = options.backend, .threads = options.threads});
  ProgressBar bar;
  loaded.model = load_model(*loaded.checkpoint, *loaded.backend, policy, std::ref(bar));
  bar.clear();

  const WeightFormat format = loaded.model->layers.front().at(Site::kDown).weight->format();
  if (format == WeightFormat::kF32) loaded.kv_dtype = loaded.lora_dtype = DType::kF32;
  loaded.weights_description =
      fmt::format("{}, held as {}", loaded.checkpoint->format_name(), weight_format_name(format));
  loaded.seconds = seconds_since(begin);
  return loaded;
}

}  // namespace polylora
