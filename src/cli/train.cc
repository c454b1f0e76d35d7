// polylora train CONFIG.yaml [key=value …]
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>

#include "base/error.h"
#include "cli/console.h"
#include "cli/memory.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "hub/model_sources.h"
#include "tune/run/run_results.h"
#include "tune/train/fine_tune.h"

namespace polylora {
namespace {

/// Lines for the user, and on a terminal a last line that shows where the run is.
class Display {
 public:
  explicit Display(bool with_bar) : bar_(with_bar && isatty(STDERR_FILENO) == 1) {}
  ~Display() { clear(); }

  void line(std::string_view text) {
    clear();
    print_line(text);
  }

  void show(const TrainProgress& at) {
    if (!bar_ || Clock::now() < next_) return;
    next_ = Clock::now() + std::chrono::milliseconds(200);
    constexpr int kWidth = 24;
    const auto filled = static_cast<size_t>(kWidth * at.step / std::max<int64_t>(1, at.total_steps));
    fmt::print(stderr, "\r\033[K  [{}{}] {}/{}  loss {:.4f}  lr {:.2e}  {:.0f} tokens/s  {} left",
               std::string(filled, '#'), std::string(kWidth - filled, '.'), at.step, at.total_steps, at.loss,
               at.learning_rate, at.tokens_per_second, duration_text(at.remaining_s));
    std::fflush(stderr);
    drawn_ = true;
  }

 private:
  using Clock = std::chrono::steady_clock;
  void clear() {
    if (drawn_) fmt::print(stderr, "\r\033[K");
    drawn_ = false;
  }

  const bool bar_;
  bool drawn_ = false;
  Clock::time_point next_{};
};

void print_help() {
  fmt::print(
      "polylora train: fine-tunes a LoRA adapter as a LLaMA-Factory YAML file says\n\n"
      "Usage: polylora train CONFIG.yaml [key=value | --key value] ...\n\n"
      "Keys are LLaMA-Factory's; those on the command line win. docs/training.md lists them.\n"
      "  polylora train llama3_lora_sft.yaml model_name_or_path=models/SmolLM2-135M template=chatml\n");
}

/// First signal: stop after the current update, with a checkpoint. Second: quit.
std::function<void()> stop_handler(std::atomic<bool>& stop) {
  return [&stop] {
    if (stop.exchange(true)) SignalWatcher::quit();
    print_line("polylora: stopping after this update, with a checkpoint (once more to quit at once)");
  };
}

void report_end(const TrainConfig& config, const TrainOutcome& outcome, Display& display) {
  if (!config.do_train || outcome.interrupted) return;
  display.line(fmt::format(
      "trained {} updates in {}: train_loss {:.4f}, {:.0f} tokens/s; the adapter is in {}", outcome.steps,
      duration_text(outcome.seconds), outcome.train_loss,
      static_cast<double>(outcome.tokens) / std::max(1e-9, outcome.seconds), config.output_dir.string()));
}

}  // namespace

int run_train(const Arguments& arguments) {
  if (arguments.empty() || arguments.front() == "--help" || arguments.front() == "-h") {
    print_help();
    return arguments.empty() ? 2 : 0;
  }
  SignalWatcher signals;  // before any other thread
  const TrainConfig config = read_train_config(arguments.front(), {arguments.begin() + 1, arguments.end()});
  Display display(!config.disable_tqdm);
  for (const std::string& notice : config.notices) display.line("polylora: note: " + notice);

  std::atomic<bool> stop = false;
  const SignalWatcher::Scope scope(signals, stop_handler(stop));
  ProgressBar loading;
  const ModelSources sources({.progress = loading.callback(), .say = print_line});
  const FineTuneHooks hooks{
      .trainer = {.on_update = [&](const TrainProgress& at) { display.show(at); },
                  .say = [&](std::string_view text) { display.line(text); },
                  .stop = &stop},
      .progress = loading.callback(),
      .find_model = [&](const std::string& name) { return sources.find_model(name, config.model_revision); },
      .find_adapter = [&](const std::string& name) { return sources.find_adapter(name); }};
  const TrainOutcome outcome = fine_tune(config, hooks, available_memory());
  report_end(config, outcome, display);
  return outcome.interrupted ? 130 : 0;
}

}  // namespace polylora
