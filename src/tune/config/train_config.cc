// `polylora train`: settings -> TrainConfig. Rows store the values; here they are checked against each other.
#include "tune/config/train_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tune/config/config_keys.h"
#include "tune/config/config_reader.h"

namespace polylora {
namespace {

template <typename... Args>
[[noreturn]] void refuse(const std::string& where, fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorCode::kInvalidArgument, "{}: {}", where, fmt::format(format, std::forward<Args>(args)...));
}

bool is_known(std::string_view key) {
  return find_key(train_keys(), key) || find_foreign(foreign_train_keys(), key);
}

std::vector<std::string> known_names() {
  std::vector<std::string> names;
  append_names(train_keys(), names);
  append_names(foreign_train_keys(), names);
  return names;
}

TrainConfig store_all(const Settings& settings) {
  TrainConfig config;
  ForeignKeyNotices foreign;
  for (const Setting& setting : settings.all()) {
    if (const auto* row = find_key(train_keys(), setting.key)) {
      if (setting.kind != Setting::Kind::kNull) row->store(config, setting);
    } else if (const ForeignKeys* other = find_foreign(foreign_train_keys(), setting.key)) {
      foreign.take(*other, setting);
    } else {
      config.notices.push_back(unknown_key(setting, known_names()));
    }
  }
  const std::vector<std::string> lines = foreign.lines();
  config.notices.insert(config.notices.end(), lines.begin(), lines.end());
  return config;
}

bool has_eval_data(const TrainConfig& config) {
  return config.val_size > 0 || !config.eval_dataset.empty();
}

void resolve_defaults(const Settings& given, TrainConfig& config) {
  if (config.lora_alpha == 0.0) config.lora_alpha = 2.0 * config.lora_rank;
  if (!given.has("packing")) config.packing = config.stage == Stage::kPt;
  if (config.neat_packing) config.packing = true;
  if (config.eval_strategy != Interval::kNo) config.do_eval = true;
  if (config.pissa_init && !config.pissa_convert)
    config.notices.emplace_back(
        "pissa_convert is always on: the saved adapter belongs to the unchanged base");
  std::string& metric = config.metric_for_best_model;
  if (metric.empty()) metric = "eval_loss";
  if (!metric.starts_with("eval_")) metric = "eval_" + metric;
  if (!given.has("greater_is_better")) config.greater_is_better = !metric.ends_with("loss");
}

void check_goal(const Settings& given, const TrainConfig& config) {
  if (config.model_name_or_path.empty()) {
    refuse(given.where("model_name_or_path"), "missing; name the base model, a folder or a .gguf file");
  }
  if (config.output_dir.empty()) refuse(given.where("output_dir"), "missing; name the folder to write to");
  if (!config.do_train && !config.do_eval) {
    refuse(given.where("do_train"),
           "neither do_train nor do_eval is true, so nothing would be done; set do_train: true");
  }
  if (config.do_train && config.dataset.empty()) {
    refuse(given.where("dataset"), "missing; name one or more datasets of dataset_info.json to train on");
  }
  if (config.val_size > 0 && config.dataset.empty()) {
    refuse(given.where("val_size"), "there is no dataset to take it from; name one in dataset");
  }
}

void check_precision(const Settings& given, TrainConfig& config) {
  if (config.bf16 && config.fp16) refuse(given.where("fp16"), "bf16 and fp16 exclude each other; keep bf16");
  for (const auto& [on, key] : {std::pair(config.fp16, "fp16"), std::pair(config.pure_bf16, "pure_bf16")}) {
    if (on) config.notices.push_back(fmt::format("{} is computed as bf16 with f32 adapters", key));
  }
  config.bf16 = config.bf16 || config.fp16 || config.pure_bf16;
}

void check_quantization(const Settings& given, const TrainConfig& config) {
  if (config.quantization_bit == 0) return;
  const std::string where = given.where("quantization_bit");
  if (config.pissa_init) {
    refuse(where, "pissa_init changes the base weights, which does not go with quantization_bit; drop one");
  }
  if (!config.adapter_name_or_path.empty() && config.create_new_adapter) {
    refuse(where,
           "create_new_adapter merges the given adapters, which does not go with quantization_bit; export "
           "first");
  }
  if (config.adapter_name_or_path.size() > 1) {
    refuse(where,
           "of several adapters all but the last are merged, which does not go with quantization_bit; export "
           "first");
  }
}

void check_stage(const Settings& given, const TrainConfig& config) {
  if (config.stage != Stage::kSft) {
    for (const auto& [on, key] : {std::pair(config.neat_packing, "neat_packing"),
                                  std::pair(config.train_on_prompt, "train_on_prompt"),
                                  std::pair(config.mask_history, "mask_history")}) {
      if (on) refuse(given.where(key), "only stage sft knows this; remove it");
    }
  }
  if (config.stage != Stage::kDpo) return;
  if (config.packing)
    refuse(given.where("packing"), "stage dpo compares pairs, which cannot be packed; remove it");
  if (config.pissa_init) {
    refuse(given.where("pissa_init"),
           "the reference of stage dpo is the unchanged base, which PiSSA changes; remove it");
  }
}

void check_data(const Settings& given, const TrainConfig& config) {
  if (config.val_size > 0 && !config.eval_dataset.empty()) {
    refuse(given.where("val_size"), "val_size and eval_dataset exclude each other; keep one");
  }
  if (config.val_size > 1 && config.val_size != std::floor(config.val_size)) {
    refuse(given.where("val_size"), "{} is neither a whole number of examples nor a share below 1",
           config.val_size);
  }
  if (config.mask_history && config.train_on_prompt) {
    refuse(given.where("mask_history"), "mask_history and train_on_prompt exclude each other; keep one");
  }
  if (config.interleave_probs.empty()) return;
  const std::string where = given.where("interleave_probs");
  if (config.mix_strategy == "concat") {
    refuse(where, "mix_strategy concat reads none; set mix_strategy: interleave_under or interleave_over");
  }
  for (const auto* names : {&config.dataset, &config.eval_dataset}) {
    if (!names->empty() && names->size() != config.interleave_probs.size()) {
      refuse(where, "{} given for {} datasets; give one for each", config.interleave_probs.size(),
             names->size());
    }
  }
}

/// The peer reads a stream without an end, so it must know when to stop; so must whoever reads the file here.
void check_streaming(const Settings& given, const TrainConfig& config) {
  const Setting* setting = given.find("streaming");
  if (!setting || setting->kind == Setting::Kind::kNull || !as_switch(*setting)) return;
  if (config.max_steps <= 0) refuse(setting->where(), "needs max_steps; set it, or streaming: false");
  if (config.val_size > 0 && config.val_size < 1) {
    refuse(given.where("val_size"), "with streaming it is a number of examples, not a share");
  }
  if (config.max_samples > 0) {
    refuse(given.where("max_samples"), "max_samples and streaming exclude each other; keep one");
  }
}

void check_schedule(const Settings& given, const TrainConfig& config) {
  const Setting* setting = given.find("lr_scheduler_kwargs");
  const LrScheduleOptions& options = config.lr_scheduler_kwargs;
  const std::string where = given.where("lr_scheduler_kwargs");
  const auto reads = [&config](std::string_view name) {
    switch (config.lr_scheduler_type) {
      case LrSchedule::kCosine:
      case LrSchedule::kCosineWithRestarts:
        return name == "num_cycles";
      case LrSchedule::kCosineWithMinLr:
        return name == "num_cycles" || name == "min_lr" || name == "min_lr_rate";
      case LrSchedule::kPolynomial:
        return name == "power" || name == "lr_end";
      default:
        return false;
    }
  };
  bool floor = false;
  if (setting && setting->kind != Setting::Kind::kNull) {
    for (const auto& [name, value] : as_named_numbers(*setting)) {
      if (!reads(name)) refuse(where, "{} is nothing this lr_scheduler_type reads; remove it", name);
      if (name.starts_with("min_lr") && std::exchange(floor, true)) {
        refuse(where, "min_lr and min_lr_rate exclude each other; keep one");
      }
    }
  }
  if (config.lr_scheduler_type == LrSchedule::kCosineWithMinLr && !floor) {
    refuse(given.where("lr_scheduler_type"),
           "cosine_with_min_lr needs lr_scheduler_kwargs: {{min_lr: 1e-6}} or {{min_lr_rate: 0.1}}");
  }
  if (config.lr_scheduler_type == LrSchedule::kPolynomial && options.lr_end >= config.learning_rate) {
    refuse(where, "lr_end {} is not below learning_rate {}", options.lr_end, config.learning_rate);
  }
}

/// Both are counts, or both shares of all steps; shares are compared in millionths as transformers does.
bool is_multiple(double saves, double evals) {
  if ((saves < 1) != (evals < 1)) return false;
  const double unit = saves < 1 ? 1e6 : 1.0;
  return std::llround(saves * unit) % std::max(1LL, std::llround(evals * unit)) == 0;
}

void check_best_model(const Settings& given, const TrainConfig& config) {
  const std::string where = given.where("load_best_model_at_end");
  if (config.eval_strategy == Interval::kNo) {
    refuse(where, "needs evaluations to choose by; set eval_strategy: steps or epoch");
  }
  if (config.save_strategy != config.eval_strategy) {
    refuse(where, "needs save_strategy and eval_strategy to be the same");
  }
  const double evals = config.eval_steps > 0 ? config.eval_steps : config.logging_steps;
  if (config.eval_strategy == Interval::kSteps && !is_multiple(config.save_steps, evals)) {
    refuse(where, "save_steps {} is not a multiple of eval_steps {}, so a best model might not be saved",
           config.save_steps, evals);
  }
  if (config.metric_for_best_model == "eval_accuracy" && config.stage != Stage::kDpo &&
      !config.compute_accuracy) {
    refuse(given.where("metric_for_best_model"), "accuracy is computed with compute_accuracy: true only");
  }
}

void check_evaluation(const Settings& given, const TrainConfig& config) {
  const char* asking = config.eval_strategy != Interval::kNo ? "eval_strategy"
                       : config.do_eval                      ? "do_eval"
                       : config.eval_on_start                ? "eval_on_start"
                                                             : nullptr;
  if (asking && !has_eval_data(config)) {
    refuse(given.where(asking), "there is nothing to evaluate on; set val_size or eval_dataset");
  }
  if (config.load_best_model_at_end) check_best_model(given, config);
  if (config.early_stopping_steps > 0 && !config.load_best_model_at_end) {
    refuse(given.where("early_stopping_steps"), "needs load_best_model_at_end: true");
  }
}

}  // namespace

TrainConfig read_train_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  const Settings given = read_settings(file, overrides, is_known);
  TrainConfig config = store_all(given);
  resolve_defaults(given, config);
  check_goal(given, config);
  check_precision(given, config);
  check_quantization(given, config);
  check_stage(given, config);
  check_data(given, config);
  check_streaming(given, config);
  check_schedule(given, config);
  check_evaluation(given, config);
  return config;
}

}  // namespace polylora
