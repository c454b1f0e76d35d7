// The training loop: updates, logs, evaluations, checkpoints.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tune/config/train_config.h"
#include "tune/run/run_folder.h"
#include "tune/run/run_log.h"
#include "tune/train/forward_adapter.h"
#include "tune/train/objective.h"
#include "tune/train/optimizer.h"
#include "tune/train/sample_plan.h"
#include "tune/train/training_pass.h"

namespace polylora {

struct TrainProgress {
  int64_t step = 0, total_steps = 0;
  double loss = 0.0, learning_rate = 0.0;
  double tokens_per_second = 0.0;  // of this run so far
  double remaining_s = 0.0;
};

/// How a run talks to whoever started it. All may be empty; called on the training thread.
struct TrainerHooks {
  std::function<void(const TrainProgress&)> on_update;
  std::function<void(std::string_view line)> say;
  const std::atomic<bool>* stop =
      nullptr;  // when set, the run saves a checkpoint after the current update and ends
};

struct EvaluationSet {
  std::string prefix = "eval";  // "eval_NAME" with eval_on_each_dataset
  std::unique_ptr<Objective> objective;
};

struct TrainOutcome {
  int64_t steps = 0;        // updates done, those before a resume included
  double train_loss = 0.0;  // mean over all of them
  double seconds = 0.0;
  int64_t tokens = 0;        // trained on in this process
  bool interrupted = false;  // by `stop`: a checkpoint is there to go on from
};

/// What the loop works with; all outlive the trainer.
struct TrainerParts {
  const TrainConfig& config;
  const TrainableAdapter& trained;
  TrainingPass& pass;
  ForwardAdapter& forward;
  Optimizer& optimizer;
  Objective& objective;
  std::vector<EvaluationSet>& evaluations;
  const AdapterSaver& saver;
  int64_t parameters;  // of base and adapter: for total_flos
};

/// One run. Everything it computes is a function of configuration, data and seed: a run that was killed and
/// resumed from a checkpoint has the same losses, bit for bit, as one that was not.
class Trainer {
 public:
  Trainer(const TrainerParts& parts, const TrainerHooks& hooks);

  /// Trains, from `resume` if given, evaluates and saves. Throws Error; checkpoints written so far stay.
  TrainOutcome run(const std::optional<std::filesystem::path>& resume);

  /// Evaluation alone (do_eval without do_train): eval_results.json; nothing else in the folder changes.
  void evaluate_only();

 private:
  struct Cadence {  // every so many updates, or at the end of an epoch
    Interval strategy;
    int64_t steps;
    bool due(int64_t step, bool epoch_ends) const {
      return strategy == Interval::kEpoch ? epoch_ends : strategy == Interval::kSteps && step % steps == 0;
    }
  };

  int64_t steps_of(double value) const;
  void start(const std::optional<std::filesystem::path>& resume);
  void evaluate_first();
  void update(int64_t step, const UpdateSamples& samples);
  void after_update(const UpdateSamples& samples);
  void log_step();
  std::vector<EvalLog> evaluate_sets();
  std::map<std::string, double> evaluate();  // and logs; by metric name: "eval_loss"
  void judge(const std::map<std::string, double>& metrics);
  bool improves(double metric);
  void save_checkpoint();
  void write_sums(const std::filesystem::path& folder) const;
  void read_sums(const std::filesystem::path& checkpoint);
  bool should_stop() const;
  void load_best();
  TrainOutcome finish();
  double learning_rate(int64_t step) const;
  void report_progress() const;
  void refresh();
  RunPosition position() const;
  void say(std::string_view line) const;

  TrainerParts parts_;
  const TrainConfig& config_;
  TrainerHooks hooks_;
  SamplePlan plan_;
  CheckpointFolders checkpoints_;
  Cadence logging_, saving_, evaluating_;
  int64_t warmup_steps_ = 0;
  std::unique_ptr<RunLog> log_;

  int64_t first_step_ = 0;  // where this process began
  int64_t step_ = 0;        // updates done
  double epoch_ = 0.0;
  int64_t tokens_ = 0;  // in this process
  int64_t saved_step_ = -1;
  bool stopped_early_ = false, interrupted_ = false;
  std::chrono::steady_clock::time_point started_;

  /// Sums since the last log. Checkpoints hold them: one may fall between two logs.
  struct Window {
    double loss = 0.0, grad_norm = 0.0, learning_rate = 0.0;
    std::map<std::string, double> metrics;
    int64_t updates = 0;
  };
  Window window_;
  double loss_sum_ = 0.0;  // over all updates, those before a resume included
};

}  // namespace polylora
