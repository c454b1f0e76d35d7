// What `polylora train CONFIG.yaml [key=value …]` is told: LLaMA-Factory's keys under LLaMA-Factory's names,
// with its defaults. Members are named exactly as the keys.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polylora {

enum class Stage : uint8_t { kPt, kSft, kDpo };
/// HF's get_scheduler names.
enum class LrSchedule : uint8_t {
  kLinear,
  kCosine,
  kCosineWithRestarts,
  kCosineWithMinLr,
  kPolynomial,
  kConstant,
  kConstantWithWarmup,
  kInverseSqrt
};
enum class Interval : uint8_t { kNo, kSteps, kEpoch };  // save_strategy, eval_strategy, logging_strategy

/// lr_scheduler_kwargs, as far as the schedules above read them.
struct LrScheduleOptions {
  double num_cycles = -1.0;  // < 0: the schedule's own (0.5 for cosine, 1 for cosine_with_restarts)
  double power = 1.0;        // polynomial
  double lr_end = 1e-7;      // polynomial
  double min_lr = 0.0;       // cosine_with_min_lr
  double min_lr_rate = -1.0;
};

struct TrainConfig {
  // --- model
  std::string model_name_or_path;
  std::string model_revision = "main";            // of a hub id that names none
  std::vector<std::string> adapter_name_or_path;  // all but the last are merged, the last is resumed
  std::string template_name;                      // key `template`; empty: the model's own Jinja
  bool disable_gradient_checkpointing = false;    // true: activations are never recomputed
  int quantization_bit = 0;                       // 0, 4 or 8

  // --- method
  Stage stage = Stage::kSft;
  bool do_train = false, do_eval = false;  // resolved: do_eval also with an eval_strategy
  int lora_rank = 8;
  double lora_alpha = 0.0;  // resolved: 2 * lora_rank unless given
  double lora_dropout = 0.0;
  std::vector<std::string> lora_target = {"all"};
  std::vector<std::string> additional_target;
  bool use_rslora = false, use_dora = false;
  bool pissa_init = false, pissa_convert = false;
  int pissa_iter = 16;  // -1: exact SVD
  std::optional<double> loraplus_lr_ratio;
  double loraplus_lr_embedding = 1e-6;
  bool create_new_adapter = false;
  bool bf16 = false;                     // resolved: also with fp16 and pure_bf16; off: everything in f32
  bool fp16 = false, pure_bf16 = false;  // as given
  bool plot_loss = false, compute_accuracy = false, disable_shuffling = false;
  bool include_effective_tokens_per_second = false, include_num_input_tokens_seen = false;
  int early_stopping_steps = 0;  // 0: off

  // --- preference
  double pref_beta = 0.1, pref_ftx = 0.0, dpo_label_smoothing = 0.0;

  // --- data
  std::vector<std::string> dataset, eval_dataset;
  std::filesystem::path dataset_dir = "data";
  int cutoff_len = 2048;
  bool train_on_prompt = false, mask_history = false;
  std::string mix_strategy = "concat";  // concat, interleave_under, interleave_over
  std::vector<double> interleave_probs;
  int preprocessing_batch_size = 1000;  // packing looks at this many examples at a time, as in the peer
  int max_samples = 0;                  // of each dataset; 0: all
  double val_size = 0.0;                // >= 1: that many; < 1: that share
  bool eval_on_each_dataset = false;
  /// Resolved: packing is on for pt unless given, and with neat_packing. cutoff_len is as given: the peer's
  /// `cutoff_len - 1` for packed rows is the data layer's.
  bool packing = false, neat_packing = false;
  std::string default_system;
  bool has_default_system = false;
  bool enable_thinking = true;

  // --- trainer
  std::filesystem::path output_dir;
  bool overwrite_output_dir = false;
  int per_device_train_batch_size = 8, per_device_eval_batch_size = 8;
  int gradient_accumulation_steps = 1;
  double learning_rate = 5e-5;
  double num_train_epochs = 3.0;
  int64_t max_steps = -1;  // > 0 wins over num_train_epochs
  LrSchedule lr_scheduler_type = LrSchedule::kLinear;
  LrScheduleOptions lr_scheduler_kwargs;
  double warmup_ratio = 0.0;
  double warmup_steps = 0.0;  // >= 1: steps; in (0, 1): a share of all steps, as transformers 5 reads it
  double weight_decay = 0.0, max_grad_norm = 1.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  int64_t seed = 42;
  std::optional<int64_t> data_seed;
  Interval logging_strategy = Interval::kSteps, save_strategy = Interval::kSteps,
           eval_strategy = Interval::kNo;
  double logging_steps = 500, save_steps = 500,
         eval_steps = 0;            // in (0, 1): a share of all steps; eval 0: as logging
  bool logging_first_step = false;  // step 1 is logged too
  bool disable_tqdm = false;        // no progress bar
  bool eval_on_start = false;       // evaluate before the first step
  int save_total_limit = 0;         // 0: all are kept
  bool save_only_model = false;
  bool load_best_model_at_end = false;
  std::string metric_for_best_model;  // resolved: eval_loss, or as given with eval_ in front
  bool greater_is_better = false;     // resolved: false for a metric that ends in "loss", unless given
  double neftune_noise_alpha = 0.0;   // 0: off
  bool group_by_length = false;
  /// A checkpoint folder. Not given (all three unset): the trainer resumes the last checkpoint of output_dir
  /// if there is one and overwrite_output_dir is false.
  std::string resume_from_checkpoint;
  bool resume_from_last_checkpoint = false;  // resume_from_checkpoint: true, there must be one in output_dir
  bool never_resume = false;                 // resume_from_checkpoint: false, whatever output_dir holds

  // --- ours
  int threads = 0;  // of the backend; 0: one per core

  /// One line per reason for keys that were understood and do nothing here ("deepspeed, fsdp are accepted and
  /// do nothing here: …"), or that are done another way than asked ("fp16 is computed as bf16 …").
  std::vector<std::string> notices;
};

/// What `polylora export CONFIG.yaml` is told.
struct ExportConfig {
  std::string model_name_or_path;
  std::string model_revision = "main";            // of a hub id that names none
  std::vector<std::string> adapter_name_or_path;  // merged in this order
  std::string template_name;
  std::filesystem::path export_dir;
  double export_size = 5.0;            // GB (10^9 bytes) a shard; 0: one file
  std::string infer_dtype = "auto";    // auto, float16, bfloat16, float32
  std::string format = "safetensors";  // safetensors, gguf, gguf-lora (ours: --format)
  bool export_legacy_format = false;   // true is refused: pickled files are not written
  int threads = 0;
  std::vector<std::string> notices;
};

/// Reads a YAML or JSON file (empty path: none) and then the overrides (`key=value` as OmegaConf takes them,
/// or
/// `--key value`), checks everything that can be checked without opening a model or dataset, and resolves
/// defaults. The first problem is thrown, in one line with file, line, key, nearest known key, what to do:
/// kInvalidArgument, kUnsupported for a stage or method that is not implemented, kNotFound without the file.
/// With ALLOW_EXTRA_ARGS=1 in the environment, unknown keys are notices, as in the peer.
TrainConfig read_train_config(const std::filesystem::path& file, const std::vector<std::string>& overrides);
ExportConfig read_export_config(const std::filesystem::path& file, const std::vector<std::string>& overrides);

}  // namespace polylora
