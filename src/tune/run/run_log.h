// What a training run tells about itself, in the files of transformers and LLaMA-Factory: trainer_log.jsonl
// (a line per log), trainer_state.json (the whole history, also in every checkpoint), *_results.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "tune/run/run_results.h"

namespace polylora {

/// What does not change during a run.
struct RunFacts {
  std::filesystem::path output_dir;  // exists
  int64_t max_steps = 0;
  int64_t num_train_epochs = 0;  // rounded up
  int train_batch_size = 0;      // per device
  int64_t logging_steps = 500, save_steps = 500, eval_steps = 500;
  int early_stopping_patience = 0;  // evaluations without progress; 0: off
};

/// The mean of the updates since the last log.
struct StepLog {
  double loss = 0;
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  std::map<std::string, double> extra = {};  // dpo: "rewards/chosen", "rewards/accuracies", …
};

/// The best evaluation so far.
struct BestModel {
  int64_t step = 0;
  double metric = 0;
  std::string checkpoint;  // its folder
};

/// Owned by the trainer; one thread. Every file is readable at any moment: whole files are replaced
/// atomically, a log line is one append. Every failure to write throws kIo naming the file.
class RunLog {
 public:
  /// A new run: trainer_log.jsonl and all_results.json of an earlier one are removed. With `checkpoint`, the
  /// continuation of the run that wrote this checkpoint's trainer_state.json: the history goes on from there,
  /// and log lines that came after it are cut off. Throws kDataCorrupt for a state that is none.
  explicit RunLog(const RunFacts& facts, const std::optional<std::filesystem::path>& checkpoint = {});

  /// The restored position (elapsed_s 0); all zero for a new run.
  const RunPosition& resumed_at() const { return resumed_at_; }

  void log_step(const RunPosition& at, const StepLog& log);
  void log_eval(const RunPosition& at, const EvalLog& log);

  /// The summary: last entry of the history, train_results.json, all_results.json, trainer_state.json.
  void finish(const RunPosition& at, const TrainSummary& summary);
  /// eval_results.json and all_results.json from the evaluations logged last at one step; nothing without
  /// any.
  void write_eval_results() const;

  /// The text of trainer_state.json.
  std::string state_json(const RunPosition& at) const;
  /// state_json() into `folder`.
  void write_state(const std::filesystem::path& folder, const RunPosition& at) const;

  /// Entries {loss, grad_norm, learning_rate, epoch, step}, {eval_loss, …, epoch, step} and the summary.
  const nlohmann::json& history() const { return history_; }
  const RunFacts& facts() const { return facts_; }

  std::optional<BestModel> best;   // part of the state
  int early_stopping_counter = 0;  // evaluations since progress; part of the state with patience
 private:
  void restore(const std::filesystem::path& checkpoint);
  void restore_best(const nlohmann::json& state, const std::string& where);
  void cut_log(int64_t last_step);
  void append(const RunPosition& at, nlohmann::json entry);
  std::string log_line(const RunPosition& at, const nlohmann::json& entry) const;
  nlohmann::json stateful_callbacks(const RunPosition& at) const;
  std::filesystem::path log_path() const { return facts_.output_dir / "trainer_log.jsonl"; }

  RunFacts facts_;
  RunPosition resumed_at_;
  int64_t elapsed_before_s_ = 0;  // of the processes that this run was resumed from
  nlohmann::json history_ = nlohmann::json::array();
  nlohmann::json last_eval_ = nlohmann::json::object();
};

}  // namespace polylora
