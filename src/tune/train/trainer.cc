#include "tune/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "io/json_file.h"
#include "tune/run/loss_plot.h"
#include "tune/run/model_card.h"
#include "tune/train/lr_schedule.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kSumsFile = "loss_sums.json";
constexpr uint64_t kUpdateStream = 1;  // of the seed: keys of updates

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

SamplePlanOptions plan_options(const TrainConfig& config) {
  return {.batch_size = config.per_device_train_batch_size,
          .batches_per_update = config.gradient_accumulation_steps,
          .epochs = config.num_train_epochs,
          .max_updates = config.max_steps,
          .seed = static_cast<uint64_t>(config.data_seed.value_or(config.seed)),
          .shuffle = !config.disable_shuffling,
          .group_by_length = config.group_by_length};
}

std::vector<int> lengths_of(const Objective& objective) {
  std::vector<int> lengths(objective.size());
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = objective.length(i);
  return lengths;
}

int64_t warmup_of(const TrainConfig& config, int64_t total) {
  const auto share = [total](double part) {
    return static_cast<int64_t>(std::ceil(static_cast<double>(total) * part));
  };
  if (config.warmup_steps >= 1.0) return static_cast<int64_t>(config.warmup_steps);
  return share(config.warmup_steps > 0.0 ? config.warmup_steps : config.warmup_ratio);
}

}  // namespace

Trainer::Trainer(const TrainerParts& parts, const TrainerHooks& hooks)
    : parts_(parts),
      config_(parts.config),
      hooks_(hooks),
      plan_(lengths_of(parts.objective), plan_options(parts.config)),
      checkpoints_(parts.config.output_dir),
      logging_{config_.logging_strategy, steps_of(config_.logging_steps)},
      saving_{config_.save_strategy, steps_of(config_.save_steps)},
      evaluating_{config_.eval_strategy,
                  steps_of(config_.eval_steps > 0 ? config_.eval_steps : config_.logging_steps)},
      warmup_steps_(warmup_of(config_, plan_.total_updates())) {}

/// A number of updates, or a share of them all.
int64_t Trainer::steps_of(double value) const {
  if (value >= 1.0) return static_cast<int64_t>(value);
  return std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(value * static_cast<double>(plan_.total_updates()))));
}

void Trainer::say(std::string_view line) const {
  if (hooks_.say) hooks_.say(line);
}

TrainOutcome Trainer::run(const std::optional<std::filesystem::path>& resume) {
  start(resume);
  evaluate_first();
  while (step_ < plan_.total_updates() && !should_stop()) {
    const UpdateSamples samples = plan_.update(step_);
    update(step_, samples);
    after_update(samples);
  }
  return finish();
}

void Trainer::start(const std::optional<std::filesystem::path>& resume) {
  log_ = std::make_unique<RunLog>(
      RunFacts{.output_dir = config_.output_dir,
               .max_steps = plan_.total_updates(),
               .num_train_epochs = static_cast<int64_t>(
                   std::ceil(static_cast<double>(plan_.total_updates()) /
                             static_cast<double>(std::max<int64_t>(1, plan_.updates_per_epoch())))),
               .train_batch_size = config_.per_device_train_batch_size,
               .logging_steps = logging_.steps,
               .save_steps = saving_.steps,
               .eval_steps = evaluating_.steps,
               .early_stopping_patience = config_.early_stopping_steps},
      resume);
  checkpoints_.remove_partial();
  if (resume) {
    read_training_state(*resume, parts_.trained);
    read_sums(*resume);
    step_ = log_->resumed_at().step;
    epoch_ = log_->resumed_at().epoch;
    saved_step_ = step_;
    say(fmt::format("resuming from {} after {} of {} updates", resume->string(), step_,
                    plan_.total_updates()));
  }
  first_step_ = step_;
  refresh();
  started_ = Clock::now();
}

void Trainer::evaluate_first() {
  if (config_.eval_on_start && step_ == 0 && !parts_.evaluations.empty()) evaluate();
}

void Trainer::refresh() {
  parts_.forward.refresh();
  parts_.pass.set_full_matrices(parts_.forward.embedding(), parts_.forward.lm_head());
}

double Trainer::learning_rate(int64_t step) const {
  return config_.learning_rate * lr_factor(config_.lr_scheduler_type, config_.lr_scheduler_kwargs,
                                           config_.learning_rate, step, warmup_steps_, plan_.total_updates());
}

void Trainer::update(int64_t step, const UpdateSamples& samples) {
  parts_.optimizer.zero_gradients();
  const uint64_t key =
      random_bits(static_cast<uint64_t>(config_.seed), kUpdateStream, static_cast<uint64_t>(step));
  const ObjectiveResult result =
      parts_.objective.accumulate(parts_.pass, parts_.forward.adapter(), samples.examples, key);
  if (!std::isfinite(result.loss)) {
    fail(ErrorCode::kInvalidArgument,
         "the loss is no longer a number at update {}: lower learning_rate (now {}) or raise warmup_ratio; "
         "checkpoints up to update {} are kept",
         step + 1, config_.learning_rate, std::max<int64_t>(0, saved_step_));
  }
  window_.learning_rate = learning_rate(step);
  window_.grad_norm = parts_.optimizer.update(step + 1, window_.learning_rate);
  refresh();

  window_.loss += result.loss;
  for (const auto& [name, value] : result.metrics) window_.metrics[name] += value;
  ++window_.updates;
  loss_sum_ += result.loss;
  for (const size_t example : samples.examples) tokens_ += parts_.objective.length(example);
  step_ = step + 1;
  epoch_ = samples.epoch;
}

void Trainer::after_update(const UpdateSamples& samples) {
  report_progress();
  const bool last = step_ == plan_.total_updates();
  if (hooks_.stop != nullptr && hooks_.stop->load()) interrupted_ = !last;
  const bool first = config_.logging_first_step && step_ == 1;
  if (first || logging_.due(step_, samples.ends_epoch)) log_step();
  if (!parts_.evaluations.empty() && evaluating_.due(step_, samples.ends_epoch)) judge(evaluate());
  const bool last_save = last && config_.save_strategy == Interval::kSteps;
  if (saving_.due(step_, samples.ends_epoch) || last_save || interrupted_) save_checkpoint();
}

bool Trainer::should_stop() const {
  return stopped_early_ || interrupted_;
}

void Trainer::report_progress() const {
  if (!hooks_.on_update) return;
  const double elapsed = seconds_since(started_);
  const auto done = static_cast<double>(step_ - first_step_);
  const auto left = static_cast<double>(plan_.total_updates() - step_);
  hooks_.on_update({.step = step_,
                    .total_steps = plan_.total_updates(),
                    .loss = window_.loss / static_cast<double>(std::max<int64_t>(1, window_.updates)),
                    .learning_rate = window_.learning_rate,
                    .tokens_per_second = static_cast<double>(tokens_) / elapsed,
                    .remaining_s = elapsed / done * left});
}

RunPosition Trainer::position() const {
  const double before = log_->resumed_at().total_flos;
  return {
      .step = step_,
      .epoch = epoch_,
      .elapsed_s = seconds_since(started_),
      .total_flos = before + 6.0 * static_cast<double>(parts_.parameters) * static_cast<double>(tokens_),
      .input_tokens = config_.include_num_input_tokens_seen ? log_->resumed_at().input_tokens + tokens_ : 0};
}

void Trainer::log_step() {
  if (window_.updates == 0) return;
  const auto n = static_cast<double>(window_.updates);
  StepLog entry{.loss = window_.loss / n,
                .grad_norm = window_.grad_norm,
                .learning_rate = window_.learning_rate,
                .extra = window_.metrics};
  for (auto& [name, value] : entry.extra) value /= n;
  log_->log_step(position(), entry);
  say(fmt::format(
      "update {}/{}: loss {:.4f}, grad_norm {:.3g}, learning rate {:.3g}, epoch {:.2f}, {:.0f} tokens/s",
      step_, plan_.total_updates(), entry.loss, entry.grad_norm, entry.learning_rate, epoch_,
      static_cast<double>(tokens_) / seconds_since(started_)));
  window_ = {};
}

std::vector<EvalLog> Trainer::evaluate_sets() {
  std::vector<EvalLog> logs;
  for (EvaluationSet& set : parts_.evaluations) {
    const Clock::time_point begin = Clock::now();
    const EvaluationOptions options{config_.per_device_eval_batch_size, config_.compute_accuracy};
    const ObjectiveResult result = set.objective->evaluate(parts_.pass, parts_.forward.adapter(), options);
    const auto samples = static_cast<int64_t>(set.objective->size());
    logs.push_back({.prefix = set.prefix,
                    .loss = result.loss,
                    .runtime_s = seconds_since(begin),
                    .samples = samples,
                    .batches = (samples + options.batch_size - 1) / options.batch_size,
                    .extra = result.metrics});
    say(fmt::format("{}_loss {:.4f} after update {} ({} examples, {:.1f} s)", set.prefix, result.loss, step_,
                    samples, logs.back().runtime_s));
  }
  return logs;
}

std::map<std::string, double> Trainer::evaluate() {
  std::map<std::string, double> metrics;
  for (const EvalLog& entry : evaluate_sets()) {
    log_->log_eval(position(), entry);
    metrics[entry.prefix + "_loss"] = entry.loss;
    for (const auto& [name, value] : entry.extra) metrics[entry.prefix + "_" + name] = value;
  }
  return metrics;
}

/// Keeps the best evaluation and counts those without progress.
void Trainer::judge(const std::map<std::string, double>& metrics) {
  if (!config_.load_best_model_at_end && config_.early_stopping_steps == 0) return;
  const std::string& wanted = config_.metric_for_best_model;
  const auto found = metrics.find(wanted);
  if (found == metrics.end()) {
    std::string known;
    for (const auto& [name, value] : metrics) known += (known.empty() ? "" : ", ") + name;
    fail(ErrorCode::kInvalidArgument, "metric_for_best_model: there is no '{}'; the evaluation has {}",
         wanted, known);
  }
  log_->early_stopping_counter = improves(found->second) ? 0 : log_->early_stopping_counter + 1;
  if (config_.early_stopping_steps > 0 && log_->early_stopping_counter >= config_.early_stopping_steps) {
    say(fmt::format("stopping early: {} has not improved for {} evaluations", wanted,
                    log_->early_stopping_counter));
    stopped_early_ = true;
  }
}

bool Trainer::improves(double metric) {
  const bool better =
      !log_->best || (config_.greater_is_better ? metric > log_->best->metric : metric < log_->best->metric);
  if (better) log_->best = BestModel{step_, metric, checkpoints_.path(step_).string()};
  return better;
}

void Trainer::save_checkpoint() {
  if (saved_step_ == step_) return;
  checkpoints_.write(step_, [this](const std::filesystem::path& folder) {
    parts_.saver.save(folder);
    if (!config_.save_only_model) {
      write_optimizer_state(folder, parts_.trained, parts_.saver.converts());
      write_sums(folder);
    }
    write_model_card(folder, config_, log_->history());
    log_->write_state(folder, position());
  });
  saved_step_ = step_;
  checkpoints_.rotate(config_.save_total_limit, log_->best ? log_->best->checkpoint : "");
}

void Trainer::write_sums(const std::filesystem::path& folder) const {
  const nlohmann::json sums = {{"loss_sum", loss_sum_},
                               {"window_loss", window_.loss},
                               {"window_metrics", window_.metrics},
                               {"window_updates", window_.updates}};
  write_file_atomic(folder / kSumsFile, sums.dump() + "\n");
}

void Trainer::read_sums(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kSumsFile;
  try {
    const nlohmann::json sums = read_json_file(path);
    sums.at("loss_sum").get_to(loss_sum_);
    sums.at("window_loss").get_to(window_.loss);
    sums.at("window_metrics").get_to(window_.metrics);
    sums.at("window_updates").get_to(window_.updates);
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kDataCorrupt, "{} does not hold the sums of a training run", path.string());
  }
}

void Trainer::load_best() {
  if (!config_.load_best_model_at_end || !log_->best) return;
  const std::filesystem::path best = log_->best->checkpoint;
  if (parts_.saver.converts()) {
    read_training_state(best, parts_.trained);
  } else {
    read_adapter_values(best, parts_.trained);
  }
  refresh();
  say(fmt::format("taking the best checkpoint, {} ({} {:.4f})", best.string(), config_.metric_for_best_model,
                  log_->best->metric));
}

TrainOutcome Trainer::finish() {
  TrainOutcome outcome{.steps = step_,
                       .train_loss = loss_sum_ / static_cast<double>(std::max<int64_t>(1, step_)),
                       .seconds = seconds_since(started_),
                       .tokens = tokens_,
                       .interrupted = interrupted_};
  if (interrupted_) {
    say(fmt::format("stopped after update {}: go on with resume_from_checkpoint={}", step_,
                    checkpoints_.path(step_).string()));
    return outcome;
  }
  TrainSummary summary{.train_loss = outcome.train_loss,
                       .runtime_s = outcome.seconds,
                       .samples = static_cast<int64_t>(static_cast<double>(parts_.objective.size()) *
                                                       config_.num_train_epochs),
                       .extra = {}};
  if (config_.max_steps > 0)
    summary.samples =
        config_.max_steps * config_.per_device_train_batch_size * config_.gradient_accumulation_steps;
  if (config_.include_effective_tokens_per_second)
    summary.extra["effective_tokens_per_sec"] = static_cast<double>(tokens_) / outcome.seconds;
  log_->finish(position(), summary);
  load_best();
  parts_.saver.save(config_.output_dir);
  if (!parts_.evaluations.empty()) {
    evaluate();
    log_->write_eval_results();
  }
  log_->write_state(config_.output_dir, position());
  write_model_card(config_.output_dir, config_, log_->history());
  if (config_.plot_loss)
    write_loss_plots(config_.output_dir, log_->history(),
                     {"loss", "eval_loss", "eval_accuracy", "rewards/accuracies"});
  return outcome;
}

void Trainer::evaluate_only() {
  refresh();
  nlohmann::json metrics = nlohmann::json::object();
  for (const EvalLog& entry : evaluate_sets()) metrics.update(eval_metrics(entry));
  write_results(config_.output_dir, "eval", metrics);
}

}  // namespace polylora
