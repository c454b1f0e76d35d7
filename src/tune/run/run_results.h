// Metrics of a run as transformers' Trainer names and rounds them, and the *_results.json files they end in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace polylora {

/// Where a run is.
struct RunPosition {
  int64_t step = 0;          // updates done
  double epoch = 0;          // passes over the data done, with fraction
  double elapsed_s = 0;      // since this process began training
  double total_flos = 0;     // floating-point operations spent so far
  int64_t input_tokens = 0;  // seen so far; 0: not reported (include_num_input_tokens_seen is off)
};

/// One evaluation.
struct EvalLog {
  std::string prefix = "eval";  // "eval_NAME" with eval_on_each_dataset
  double loss = 0;
  double runtime_s = 0;
  int64_t samples = 0;
  int64_t batches = 0;
  std::map<std::string, double> extra = {};  // by name without the prefix: "accuracy", "rewards/margins"
};

/// The end of training.
struct TrainSummary {
  double train_loss = 0;  // mean over all updates
  double runtime_s = 0;
  int64_t samples = 0;                       // trained on, counted once per epoch
  std::map<std::string, double> extra = {};  // by full name: "effective_tokens_per_sec"
};

/// {eval_loss, eval_runtime, eval_samples_per_second, eval_steps_per_second, …}; without epoch.
nlohmann::json eval_metrics(const EvalLog& log);

/// {total_flos, train_loss, train_runtime, train_samples_per_second, train_steps_per_second, …}; without
/// epoch.
nlohmann::json train_metrics(const RunPosition& at, const TrainSummary& summary);

/// Writes SPLIT_results.json and merges the metrics into all_results.json: keys sorted, indented by 4, each
/// file atomically. An all_results.json that is no JSON object is replaced.
void write_results(const std::filesystem::path& folder, std::string_view split,
                   const nlohmann::json& metrics);

/// `value` rounded to decimal digits, as Python's round(): 5.4347 -> 5.43.
double rounded(double value, int digits);

/// As Python's str(timedelta(seconds=int(seconds))): "0:00:09", "1 day, 3:00:00".
std::string duration_text(double seconds);
/// The inverse, in whole seconds; 0 for anything else.
int64_t parse_duration(const std::string& text);

}  // namespace polylora
