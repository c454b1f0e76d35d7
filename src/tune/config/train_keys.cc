// The keys of `polylora train` that do something: LLaMA-Factory's names, types and ranges.
#include "tune/config/config_keys.h"

namespace polylora {
namespace {

using C = TrainConfig;

void store_stage(C& config, const Setting& setting) {
  const std::string stage = as_text(setting);
  for (const char* other : {"rm", "ppo", "kto"}) {
    if (stage == other) {
      fail(ErrorCode::kUnsupported, "{}: '{}' is not implemented; the stages are pt, sft and dpo",
           setting.where(), stage);
    }
  }
  stored(&C::stage, {{"pt", Stage::kPt}, {"sft", Stage::kSft}, {"dpo", Stage::kDpo}})(config, setting);
}

void store_quantization_bit(C& config, const Setting& setting) {
  const int64_t bits = as_integer(setting, kAnyNumber);
  if (bits != 4 && bits != 8) {
    fail(ErrorCode::kInvalidArgument, "{}: {} is not 4 or 8 (leave the key out to train over bf16 weights)",
         setting.where(), setting.shown());
  }
  config.quantization_bit = static_cast<int>(bits);
}

/// bool in older transformers, a word in newer ones.
void store_tokens_seen(C& config, const Setting& setting) {
  const bool counts =
      setting.kind == Setting::Kind::kScalar && (setting.text == "all" || setting.text == "non_padding");
  config.include_num_input_tokens_seen = counts || as_switch(setting);
}

/// Every AdamW is the same update; they differ in where and how precisely it is computed.
void store_optim(C& config, const Setting& setting) {
  const std::string name = as_text(setting);
  if (name == "adamw_torch" || name == "adamw_torch_fused") return;
  if (!name.starts_with("adamw_") || name == "adamw_anyprecision" ||
      name.find("schedule_free") != std::string::npos) {
    fail(ErrorCode::kInvalidArgument, "{}: {} is not supported: use adamw_torch", setting.where(),
         setting.shown());
  }
  config.notices.push_back(fmt::format("optim {} is computed as AdamW in f32", printable(name)));
}

void store_interval(Interval C::*member, C& config, const Setting& setting) {
  // Unquoted, YAML 1.1 reads no as false.
  if (setting.kind == Setting::Kind::kScalar && parse_switch(setting.text) == false) {
    config.*member = Interval::kNo;
    return;
  }
  stored(member, {{"no", Interval::kNo}, {"steps", Interval::kSteps}, {"epoch", Interval::kEpoch}})(config,
                                                                                                    setting);
}

auto interval(Interval C::*member) {
  return [member](C& config, const Setting& setting) { store_interval(member, config, setting); };
}

/// A count of steps, or below 1 a share of all.
auto steps(double C::*member, const Range& range) {
  return [member, range](C& config, const Setting& setting) {
    const double value = as_number(setting, range);
    if (value > 1 && value != static_cast<double>(static_cast<int64_t>(value))) {
      fail_wanted(setting, "an integer, or a share of all steps below 1");
    }
    config.*member = value;
  };
}

void store_resume(C& config, const Setting& setting) {
  config.resume_from_checkpoint.clear();
  const std::string text = as_text(setting);
  const std::optional<bool> on = parse_switch(text);
  config.resume_from_last_checkpoint = on == true;
  config.never_resume = on == false;
  if (!on) config.resume_from_checkpoint = text;
}

void store_schedule_options(C& config, const Setting& setting) {
  for (const auto& [name, value] : as_named_numbers(setting)) {
    LrScheduleOptions& options = config.lr_scheduler_kwargs;
    if (name == "num_cycles") {
      options.num_cycles = value;
    } else if (name == "power") {
      options.power = value;
    } else if (name == "lr_end") {
      options.lr_end = value;
    } else if (name == "min_lr") {
      options.min_lr = value;
    } else if (name == "min_lr_rate") {
      options.min_lr_rate = value;
    } else {
      fail(ErrorCode::kInvalidArgument,
           "{}: unknown member {}; known are num_cycles, power, lr_end, min_lr, min_lr_rate", setting.where(),
           printable(name));
    }
    if (value < 0) {
      fail(ErrorCode::kInvalidArgument, "{}: {} is {}, which is below 0", setting.where(), name, value);
    }
  }
}

void store_system(C& config, const Setting& setting) {
  config.default_system = as_text(setting);
  config.has_default_system = true;
}

std::vector<KeyRow<C>> model_keys() {
  return {
      {"model_name_or_path", stored(&C::model_name_or_path)},
      {"model_revision", stored(&C::model_revision)},
      {"adapter_name_or_path", stored(&C::adapter_name_or_path)},
      {"template", stored(&C::template_name)},
      {"disable_gradient_checkpointing", stored(&C::disable_gradient_checkpointing)},
      {"quantization_bit", store_quantization_bit},
  };
}

std::vector<KeyRow<C>> method_keys() {
  return {
      {"stage", store_stage},
      {"do_train", stored(&C::do_train)},
      {"do_eval", stored(&C::do_eval)},
      {"lora_rank", stored(&C::lora_rank, kAtLeastOne)},
      {"lora_alpha", stored(&C::lora_alpha, kPositive)},
      {"lora_dropout", stored(&C::lora_dropout, kShare)},
      {"lora_target", stored(&C::lora_target)},
      {"additional_target", stored(&C::additional_target)},
      {"use_rslora", stored(&C::use_rslora)},
      {"use_dora", stored(&C::use_dora)},
      {"pissa_init", stored(&C::pissa_init)},
      {"pissa_convert", stored(&C::pissa_convert)},
      {"pissa_iter", stored(&C::pissa_iter, Range{.least = -1})},
      {"loraplus_lr_ratio", stored(&C::loraplus_lr_ratio, kPositive)},
      {"loraplus_lr_embedding", stored(&C::loraplus_lr_embedding, kNotNegative)},
      {"create_new_adapter", stored(&C::create_new_adapter)},
      {"bf16", stored(&C::bf16)},
      {"fp16", stored(&C::fp16)},
      {"pure_bf16", stored(&C::pure_bf16)},
      {"plot_loss", stored(&C::plot_loss)},
      {"compute_accuracy", stored(&C::compute_accuracy)},
      {"disable_shuffling", stored(&C::disable_shuffling)},
      {"include_effective_tokens_per_second", stored(&C::include_effective_tokens_per_second)},
      {"include_num_input_tokens_seen", store_tokens_seen},
      {"early_stopping_steps", stored(&C::early_stopping_steps, kAtLeastOne)},
      {"pref_beta", stored(&C::pref_beta, kPositive)},
      {"pref_ftx", stored(&C::pref_ftx, kNotNegative)},
      {"dpo_label_smoothing", stored(&C::dpo_label_smoothing, Range{.least = 0, .most = 0.5})},
  };
}

std::vector<KeyRow<C>> data_keys() {
  return {
      {"dataset", stored(&C::dataset)},
      {"eval_dataset", stored(&C::eval_dataset)},
      {"dataset_dir", stored(&C::dataset_dir)},
      {"cutoff_len", stored(&C::cutoff_len, Range{.least = 2})},
      {"train_on_prompt", stored(&C::train_on_prompt)},
      {"mask_history", stored(&C::mask_history)},
      {"mix_strategy", stored(&C::mix_strategy, {{"concat", "concat"},
                                                 {"interleave_under", "interleave_under"},
                                                 {"interleave_over", "interleave_over"}})},
      {"interleave_probs", stored(&C::interleave_probs, Range{.least = 0, .most = 1})},
      {"preprocessing_batch_size", stored(&C::preprocessing_batch_size, kAtLeastOne)},
      {"max_samples", stored(&C::max_samples, kAtLeastOne)},
      {"val_size", stored(&C::val_size, kNotNegative)},
      {"eval_on_each_dataset", stored(&C::eval_on_each_dataset)},
      {"packing", stored(&C::packing)},
      {"neat_packing", stored(&C::neat_packing)},
      {"default_system", store_system},
      {"enable_thinking", stored(&C::enable_thinking)},
  };
}

std::vector<KeyRow<C>> trainer_keys() {
  return {
      {"output_dir", stored(&C::output_dir)},
      {"overwrite_output_dir", stored(&C::overwrite_output_dir)},
      {"per_device_train_batch_size", stored(&C::per_device_train_batch_size, kAtLeastOne)},
      {"per_device_eval_batch_size", stored(&C::per_device_eval_batch_size, kAtLeastOne)},
      {"gradient_accumulation_steps", stored(&C::gradient_accumulation_steps, kAtLeastOne)},
      {"learning_rate", stored(&C::learning_rate, kPositive)},
      {"num_train_epochs", stored(&C::num_train_epochs, kPositive)},
      {"max_steps", stored(&C::max_steps, Range{.least = -1})},
      {"lr_scheduler_type",
       stored(&C::lr_scheduler_type, {{"linear", LrSchedule::kLinear},
                                      {"cosine", LrSchedule::kCosine},
                                      {"cosine_with_restarts", LrSchedule::kCosineWithRestarts},
                                      {"cosine_with_min_lr", LrSchedule::kCosineWithMinLr},
                                      {"polynomial", LrSchedule::kPolynomial},
                                      {"constant", LrSchedule::kConstant},
                                      {"constant_with_warmup", LrSchedule::kConstantWithWarmup},
                                      {"inverse_sqrt", LrSchedule::kInverseSqrt}})},
      {"lr_scheduler_kwargs", store_schedule_options},
      {"warmup_ratio", stored(&C::warmup_ratio, Range{.least = 0, .most = 1})},
      {"warmup_steps", steps(&C::warmup_steps, kNotNegative)},
      {"weight_decay", stored(&C::weight_decay, kNotNegative)},
      {"max_grad_norm", stored(&C::max_grad_norm, kNotNegative)},
      {"optim", store_optim},
      {"adam_beta1", stored(&C::adam_beta1, kShare)},
      {"adam_beta2", stored(&C::adam_beta2, kShare)},
      {"adam_epsilon", stored(&C::adam_epsilon, kPositive)},
      {"seed", stored(&C::seed, kNotNegative)},
      {"data_seed", stored(&C::data_seed, kNotNegative)},
      {"logging_strategy", interval(&C::logging_strategy)},
      {"logging_steps", steps(&C::logging_steps, kPositive)},
      {"logging_first_step", stored(&C::logging_first_step)},
      {"disable_tqdm", stored(&C::disable_tqdm)},
      {"save_strategy", interval(&C::save_strategy)},
      {"save_steps", steps(&C::save_steps, kPositive)},
      {"save_total_limit", stored(&C::save_total_limit, kNotNegative)},
      {"save_only_model", stored(&C::save_only_model)},
      {"eval_strategy", interval(&C::eval_strategy)},
      {"eval_steps", steps(&C::eval_steps, kPositive)},
      {"eval_on_start", stored(&C::eval_on_start)},
      {"load_best_model_at_end", stored(&C::load_best_model_at_end)},
      {"metric_for_best_model", stored(&C::metric_for_best_model)},
      {"greater_is_better", stored(&C::greater_is_better)},
      {"neftune_noise_alpha", stored(&C::neftune_noise_alpha, kNotNegative)},
      {"group_by_length", stored(&C::group_by_length)},
      {"resume_from_checkpoint", store_resume},
      {"threads", stored(&C::threads, kNotNegative)},
  };
}

}  // namespace

const std::vector<KeyRow<TrainConfig>>& train_keys() {
  static const std::vector<KeyRow<C>> all = [] {
    std::vector<KeyRow<C>> rows;
    for (auto group : {model_keys(), method_keys(), data_keys(), trainer_keys()}) {
      rows.insert(rows.end(), group.begin(), group.end());
    }
    return rows;
  }();
  return all;
}

}  // namespace polylora
