#include "tune/run/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

/// One write() to a file opened for appending: a process that is killed leaves whole lines.
void append_line(const fs::path& path, const std::string& line) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  const bool written = fd >= 0 && ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!written) fail(ErrorCode::kIo, "cannot append to {}: {}", path.string(), std::strerror(error));
}

/// An object in one line with Python's spacing.
std::string python_line(const ordered_json& object) {
  std::string line = "{";
  for (const auto& [key, value] : object.items()) {
    if (line.size() > 1) line += ", ";
    line += ordered_json(key).dump() + ": " + value.dump();
  }
  return line + "}\n";
}

/// NaN, which JSON cannot write, counts as absent.
void copy_number(const json& from, const char* key, ordered_json& to, const char* new_key) {
  const auto found = from.find(key);
  if (found == from.end() || !found->is_number()) return;
  if (const double value = *found; std::isfinite(value)) to[new_key] = value;
}

double number_or_zero(const json& state, const char* key) {
  const auto found = state.find(key);
  return found != state.end() && found->is_number() ? found->get<double>() : 0.0;
}

/// What a count in a state may be at most: sums of counts stay far from where int64_t ends.
constexpr int64_t kMaxCount = int64_t{1} << 53;

[[noreturn]] void fail_count(const char* key, const std::string& where) {
  fail(ErrorCode::kDataCorrupt, "{}: '{}' must be a count; is it a trainer_state.json?", where, key);
}

int64_t integer(const json& state, const char* key, const std::string& where) {
  const auto found = state.find(key);
  if (found == state.end() || !found->is_number_integer()) fail_count(key, where);
  const auto value = found->get<int64_t>();
  if (value < 0 || value > kMaxCount) fail_count(key, where);
  return value;
}

/// transformers writes some counts as floats.
int64_t count_or_zero(const json& state, const char* key, const std::string& where) {
  const double value = number_or_zero(state, key);
  if (!(value >= 0 && value <= static_cast<double>(kMaxCount))) fail_count(key, where);
  return static_cast<int64_t>(value);
}

void remove_file(const fs::path& path) {
  std::error_code failed;
  fs::remove(path, failed);
  if (failed) fail(ErrorCode::kIo, "cannot remove {}: {}", path.string(), failed.message());
}

}  // namespace

RunLog::RunLog(const RunFacts& facts, const std::optional<fs::path>& checkpoint) : facts_(facts) {
  if (checkpoint) {
    restore(*checkpoint);
  } else {
    remove_file(log_path());
    remove_file(facts_.output_dir / "all_results.json");
  }
}

void RunLog::restore(const fs::path& checkpoint) {
  const fs::path path = checkpoint / "trainer_state.json";
  const json state = read_json_file(path);
  if (!state.is_object() || !state.contains("log_history") || !state["log_history"].is_array())
    fail(ErrorCode::kDataCorrupt, "{}: 'log_history' is missing; is it a trainer_state.json?", path.string());
  for (const json& entry : state["log_history"]) {
    if (!entry.is_object()) fail(ErrorCode::kDataCorrupt, "{}: log_history holds no objects", path.string());
  }
  history_ = state["log_history"];
  resumed_at_.step = integer(state, "global_step", path.string());
  resumed_at_.epoch = number_or_zero(state, "epoch");
  resumed_at_.total_flos = number_or_zero(state, "total_flos");
  resumed_at_.input_tokens = count_or_zero(state, "num_input_tokens_seen", path.string());
  restore_best(state, path.string());
  cut_log(resumed_at_.step);
}

void RunLog::restore_best(const json& state, const std::string& where) {
  if (state.contains("best_metric") && state["best_metric"].is_number()) {
    const json checkpoint = state.value("best_model_checkpoint", json());
    best = BestModel{count_or_zero(state, "best_global_step", where), state["best_metric"],
                     checkpoint.is_string() ? checkpoint.get<std::string>() : ""};
  }
  const json::json_pointer callback("/stateful_callbacks/EarlyStoppingCallback/attributes");
  if (!state.contains(callback) || !state[callback].is_object()) return;
  const int64_t counter = count_or_zero(state[callback], "early_stopping_patience_counter", where);
  early_stopping_counter = static_cast<int>(std::min<int64_t>(counter, std::numeric_limits<int>::max() / 2));
}

/// Every entry of the history has its line, so the lines beyond them belong to steps that will be done again.
/// A line that is cut short ends the file.
void RunLog::cut_log(int64_t last_step) {
  if (!path_exists(log_path())) return;
  const std::string text = read_text_file(log_path());
  size_t kept = 0, lines = 0;
  while (lines < history_.size()) {
    const size_t end = text.find('\n', kept);
    if (end == std::string::npos) break;
    const json line = json::parse(std::string_view(text).substr(kept, end - kept), nullptr, false);
    if (!line.is_object() || number_or_zero(line, "current_steps") > static_cast<double>(last_step)) break;
    const json elapsed = line.value("elapsed_time", json());
    if (elapsed.is_string()) elapsed_before_s_ = parse_duration(elapsed);
    kept = end + 1;
    ++lines;
  }
  write_file_atomic(log_path(), std::string_view(text).substr(0, kept));
}

// -------------------------------------------------------------------------------------------------- logging

void RunLog::log_step(const RunPosition& at, const StepLog& log) {
  json entry = {{"loss", log.loss}, {"grad_norm", log.grad_norm}, {"learning_rate", log.learning_rate}};
  for (const auto& [name, value] : log.extra) entry[name] = value;
  append(at, std::move(entry));
}

void RunLog::log_eval(const RunPosition& at, const EvalLog& log) {
  const json metrics = eval_metrics(log);
  if (last_eval_.value("step", int64_t{-1}) != at.step) last_eval_ = {{"step", at.step}};
  last_eval_.update(metrics);
  last_eval_["epoch"] = at.epoch;
  append(at, metrics);
}

void RunLog::append(const RunPosition& at, json entry) {
  entry["epoch"] = at.epoch;
  entry["step"] = at.step;
  if (at.input_tokens > 0) entry["num_input_tokens_seen"] = at.input_tokens;
  append_line(log_path(), log_line(at, entry));
  history_.push_back(std::move(entry));
}

std::string RunLog::log_line(const RunPosition& at, const json& entry) const {
  const double elapsed = static_cast<double>(elapsed_before_s_) + at.elapsed_s;
  const auto done_here = static_cast<double>(at.step - resumed_at_.step);
  const double step_s = done_here > 0 ? at.elapsed_s / done_here : 0;
  const double share = facts_.max_steps > 0
                           ? static_cast<double>(at.step) / static_cast<double>(facts_.max_steps) * 100
                           : 100.0;
  ordered_json line;
  line["current_steps"] = at.step;
  line["total_steps"] = facts_.max_steps;
  copy_number(entry, "loss", line, "loss");
  copy_number(entry, "eval_loss", line, "eval_loss");
  copy_number(entry, "predict_loss", line, "predict_loss");
  copy_number(entry, "reward", line, "reward");
  copy_number(entry, "rewards/accuracies", line, "accuracy");
  copy_number(entry, "learning_rate", line, "lr");
  line["epoch"] = at.epoch;
  line["percentage"] = rounded(share, 2);
  line["elapsed_time"] = duration_text(elapsed);
  line["remaining_time"] = duration_text(static_cast<double>(facts_.max_steps - at.step) * step_s);
  if (at.input_tokens > 0) {
    line["throughput"] = elapsed > 0 ? rounded(static_cast<double>(at.input_tokens) / elapsed, 2) : 0.0;
    line["total_tokens"] = at.input_tokens;
  }
  return python_line(line);
}

// -------------------------------------------------------------------------------------------------- results

void RunLog::finish(const RunPosition& at, const TrainSummary& summary) {
  json metrics = train_metrics(at, summary);
  append(at, metrics);
  metrics["epoch"] = at.epoch;
  if (at.input_tokens > 0) metrics["num_input_tokens_seen"] = at.input_tokens;
  write_results(facts_.output_dir, "train", metrics);
  write_state(facts_.output_dir, at);
}

void RunLog::write_eval_results() const {
  if (last_eval_.empty()) return;
  json metrics = last_eval_;
  metrics.erase("step");
  write_results(facts_.output_dir, "eval", metrics);
}

json RunLog::stateful_callbacks(const RunPosition& at) const {
  json callbacks;
  if (facts_.early_stopping_patience > 0) {
    callbacks["EarlyStoppingCallback"] = {
        {"args",
         {{"early_stopping_patience", facts_.early_stopping_patience}, {"early_stopping_threshold", 0.0}}},
        {"attributes", {{"early_stopping_patience_counter", early_stopping_counter}}}};
  }
  callbacks["TrainerControl"] = {{"args",
                                  {{"should_epoch_stop", false},
                                   {"should_evaluate", false},
                                   {"should_log", false},
                                   {"should_save", true},
                                   {"should_training_stop", at.step >= facts_.max_steps}}},
                                 {"attributes", json::object()}};
  return callbacks;
}

std::string RunLog::state_json(const RunPosition& at) const {
  json state = {{"best_global_step", nullptr},
                {"best_metric", nullptr},
                {"best_model_checkpoint", nullptr},
                {"epoch", at.epoch},
                {"eval_steps", facts_.eval_steps},
                {"global_step", at.step},
                {"is_hyper_param_search", false},
                {"is_local_process_zero", true},
                {"is_world_process_zero", true},
                {"log_history", history_},
                {"logging_steps", facts_.logging_steps},
                {"max_steps", facts_.max_steps},
                {"num_input_tokens_seen", at.input_tokens},
                {"num_train_epochs", facts_.num_train_epochs},
                {"save_steps", facts_.save_steps},
                {"stateful_callbacks", stateful_callbacks(at)},
                {"total_flos", at.total_flos},
                {"train_batch_size", facts_.train_batch_size},
                {"trial_name", nullptr},
                {"trial_params", nullptr}};
  if (best) {
    state["best_global_step"] = best->step;
    state["best_metric"] = best->metric;
    if (!best->checkpoint.empty()) state["best_model_checkpoint"] = best->checkpoint;
  }
  return state.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void RunLog::write_state(const fs::path& folder, const RunPosition& at) const {
  write_file_atomic(folder / "trainer_state.json", state_json(at));
}

}  // namespace polylora
