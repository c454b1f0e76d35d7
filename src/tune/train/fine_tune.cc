#include "tune/train/fine_tune.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "io/adapter_config.h"
#include "io/adapter_file.h"
#include "io/checkpoint.h"
#include "io/json_file.h"
#include "model/fingerprint.h"
#include "tune/data/training_data.h"
#include "tune/train/base_matrix.h"
#include "tune/train/memory_plan.h"
#include "tune/train/pissa.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

WeightPolicy weight_policy(const TrainConfig& config) {
  if (config.quantization_bit == 8) return WeightPolicy::kQ8;
  if (config.quantization_bit == 4) return WeightPolicy::kQ4;
  return config.bf16 ? WeightPolicy::kBf16 : WeightPolicy::kF32;
}

/// The checkpoint to go on from, by the peer's rules: what resume_from_checkpoint names; else, unless the
/// folder is to be overwritten, the last checkpoint in it; a folder with other content is refused.
std::optional<fs::path> find_resume(const TrainConfig& config) {
  const CheckpointFolders folders(config.output_dir);
  if (!config.resume_from_checkpoint.empty()) {
    if (!path_exists(fs::path(config.resume_from_checkpoint) / "trainer_state.json"))
      fail(ErrorCode::kNotFound,
           "resume_from_checkpoint: {} is no checkpoint folder (it has no trainer_state.json)",
           config.resume_from_checkpoint);
    return config.resume_from_checkpoint;
  }
  if (config.resume_from_last_checkpoint) {
    const auto last = folders.last();
    if (!last)
      fail(ErrorCode::kNotFound, "resume_from_checkpoint: {} holds no checkpoint",
           config.output_dir.string());
    return last;
  }
  if (config.overwrite_output_dir || !config.do_train || !path_exists(config.output_dir)) return std::nullopt;
  if (const auto last = folders.last(); last && !config.never_resume) return last;
  if (fs::is_directory(config.output_dir) && !fs::is_empty(config.output_dir)) {
    fail(ErrorCode::kInvalidArgument,
         "output_dir {} is not empty and holds nothing to go on from: set overwrite_output_dir: true, or "
         "choose "
         "another folder",
         config.output_dir.string());
  }
  return std::nullopt;
}

void prepare_output_dir(const TrainConfig& config, bool resumes) {
  std::error_code error;
  fs::create_directories(config.output_dir, error);
  if (error || !fs::is_directory(config.output_dir))
    fail(ErrorCode::kIo, "output_dir: cannot create {}: {}", config.output_dir.string(),
         error ? error.message() : "something else has that name");
  if (resumes || !config.overwrite_output_dir || !config.do_train) return;
  // An earlier run's checkpoints would be taken for this one's by a later resume.
  const CheckpointFolders folders(config.output_dir);
  for (const int64_t step : folders.steps()) fs::remove_all(folders.path(step));
}

/// An adapter that is trained further: its own rank and targets hold, not the configuration's.
LoraSettings settings_of(const AdapterFile& file, const ModelConfig& model) {
  const AdapterConfig& peft = file.config();
  const int64_t rank = file.pairs().front().rank;
  const bool one_rank = std::all_of(file.pairs().begin(), file.pairs().end(),
                                    [&](const AdapterPair& pair) { return pair.rank == rank; });
  if (!one_rank || !peft.rank_pattern.empty() || !peft.alpha_pattern.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: an adapter with several ranks or an alpha_pattern cannot be trained further; merge it "
         "(create_new_adapter: true) and train a new one",
         file.path().string());
  }
  LoraSettings settings;
  settings.rank = rank;
  settings.alpha = peft.lora_alpha > 0 ? peft.lora_alpha : static_cast<double>(rank);
  settings.use_rslora = peft.use_rslora;
  settings.targets.clear();
  const auto modules = linear_modules(model);
  for (const AdapterPair& pair : file.pairs())
    settings.targets.push_back(module_path(pair.layer, modules[static_cast<size_t>(pair.module)]));
  return settings;
}

LoraSettings settings_of(const TrainConfig& config) {
  LoraSettings settings;
  settings.rank = config.lora_rank;
  settings.alpha = config.lora_alpha;
  settings.use_rslora = config.use_rslora;
  settings.use_dora = config.use_dora;
  settings.targets = config.lora_target;
  settings.full_matrices = config.additional_target;
  return settings;
}

fs::path found(const std::function<fs::path(const std::string&)>& find, const std::string& name) {
  return find ? find(name) : fs::path(name);
}

/// adapter_name_or_path, opened: which are merged into the base, which one is trained further.
struct GivenAdapters {
  std::vector<std::unique_ptr<AdapterFile>> merged;
  std::unique_ptr<AdapterFile> continued;

  GivenAdapters(const TrainConfig& config, const FineTuneHooks& hooks, const ModelConfig& model) {
    for (const std::string& name : config.adapter_name_or_path) {
      merged.push_back(std::make_unique<AdapterFile>(found(hooks.find_adapter, name), model));
      if (merged.back()->pairs_only()) continue;
      fail(ErrorCode::kUnsupported,
           "{}: an adapter with DoRA, biases or parts for embed_tokens or lm_head cannot be trained further; "
           "merge it (polylora export) and train on the merged model",
           name);
    }
    if (config.create_new_adapter || merged.empty()) return;
    continued = std::move(merged.back());
    merged.pop_back();
  }
};

std::unique_ptr<Objective> make_objective(const TrainConfig& config, std::span<const Example> examples,
                                          std::span<const PreferencePair> pairs) {
  if (config.stage != Stage::kDpo) return make_next_token_objective(examples, kMicroBatchRows);
  return make_preference_objective(
      pairs, kMicroBatchRows,
      {.beta = config.pref_beta, .ftx = config.pref_ftx, .label_smoothing = config.dpo_label_smoothing});
}

std::vector<EvaluationSet> make_evaluations(const TrainConfig& config, const TrainingData& data) {
  std::vector<EvaluationSet> sets;
  for (const EvalSet& set : data.eval)
    sets.push_back(
        {set.name.empty() ? "eval" : "eval_" + set.name, make_objective(config, set.examples, set.pairs)});
  return sets;
}

int longest_sequence(const TrainingData& data) {
  size_t longest = 1;
  const auto see = [&](const std::vector<Example>& examples) {
    for (const Example& example : examples) longest = std::max(longest, example.input_ids.size());
  };
  const auto see_pairs = [&](const std::vector<PreferencePair>& pairs) {
    for (const PreferencePair& pair : pairs)
      longest = std::max({longest, pair.chosen.input_ids.size(), pair.rejected.input_ids.size()});
  };
  see(data.train);
  see_pairs(data.train_pairs);
  for (const EvalSet& set : data.eval) {
    see(set.examples);
    see_pairs(set.pairs);
  }
  return static_cast<int>(longest);
}

/// Token ids that the model has no row for would be an out-of-range look-up.
void check_vocabulary(const TrainingData& data, const ModelConfig& model) {
  const auto check_ids = [&](const Example& example) {
    for (const int32_t id : example.input_ids) {
      if (id >= 0 && id < model.vocab_size) continue;
      fail(ErrorCode::kDataCorrupt,
           "the tokenizer makes token {}, but the model's vocabulary has {}: tokenizer and model do not "
           "belong "
           "together",
           id, model.vocab_size);
    }
  };
  const auto check_all = [&](const std::vector<Example>& examples, const std::vector<PreferencePair>& pairs) {
    for (const Example& example : examples) check_ids(example);
    for (const PreferencePair& pair : pairs) {
      check_ids(pair.chosen);
      check_ids(pair.rejected);
    }
  };
  check_all(data.train, data.train_pairs);
  for (const EvalSet& set : data.eval) check_all(set.examples, set.pairs);
}

/// One call of fine_tune.
class FineTuning {
 public:
  FineTuning(const TrainConfig& config, const FineTuneHooks& hooks, size_t available_memory)
      : config_(config), hooks_(hooks), available_(available_memory) {}

  TrainOutcome run() {
    const std::optional<fs::path> resume = find_resume(config_);
    checkpoint_ = Checkpoint::open(found(hooks_.find_model, config_.model_name_or_path));
    const GivenAdapters adapters(config_, hooks_, checkpoint_->config());
    read_data();
    plan(adapters);
    prepare_output_dir(config_, resume.has_value());
    load_base(adapters);
    return train(make_pissa_start(), resume);
  }

 private:
  const ModelConfig& model_config() const { return checkpoint_->config(); }

  void say(std::string_view line) const {
    if (hooks_.trainer.say) hooks_.trainer.say(line);
  }

  void read_data() {
    const TextAssets& assets = checkpoint_->text();
    if (assets.tokenizer_json.empty())
      fail(ErrorCode::kNotFound, "{} has no tokenizer.json, without which there is nothing to train on",
           config_.model_name_or_path);
    const auto tokenizer = Tokenizer::from_json(assets.tokenizer_json, assets.tokenizer_config_json);
    data_ = load_training_data(config_, *tokenizer, model_text(assets), hooks_.progress);
    for (const std::string& line : data_.report) say(line);
    check_vocabulary(data_, model_config());
    objective_ = make_objective(config_, data_.train, data_.train_pairs);
    evaluations_ = make_evaluations(config_, data_);
#if defined(__GLIBC__)
    ::malloc_trim(0);  // the tokenizer and the text were some tens of MB that nothing needs again
#endif
  }

  void plan(const GivenAdapters& adapters) {
    int rows = std::max(kMicroBatchRows, objective_->longest_rows());
    for (const EvaluationSet& set : evaluations_) rows = std::max(rows, set.objective->longest_rows());
    options_ = {.max_rows = rows,
                .max_positions = longest_sequence(data_),
                .dtype = config_.bf16 ? DType::kBf16 : DType::kF32,
                .activation_bytes = 0,
                .dropout = config_.lora_dropout,
                .neftune_noise_alpha = config_.neftune_noise_alpha};
    trained_ = std::make_unique<TrainableAdapter>(
        model_config(),
        adapters.continued ? settings_of(*adapters.continued, model_config()) : settings_of(config_));
    const MemoryPlan plan = plan_memory(config_, model_config(), weight_policy(config_),
                                        trained_->values().size(), options_, available_);
    options_.activation_bytes = plan.activations;
    say(fmt::format("memory: about {:.0f} MB: {}; {} of {} layers keep their activations",
                    static_cast<double>(plan.total()) / 1e6, plan.text(), plan.kept_layers,
                    model_config().num_layers));
  }

  void load_base(const GivenAdapters& adapters) {
    backend_ = make_training_backend({.name = "cpu", .threads = config_.threads});
    model_ = load_model(*checkpoint_, *backend_, weight_policy(config_), hooks_.progress);
    say("base weights: " + model_->formats);
    for (const auto& adapter : adapters.merged) merge_into_base(*model_, *backend_, *adapter);
    if (adapters.continued) {
      continue_adapter(*adapters.continued);
      return;
    }
    trained_->initialize(static_cast<uint64_t>(config_.seed));
    ForwardAdapter::initialize_full_matrices(*model_, *backend_, *trained_);
  }

  void continue_adapter(const AdapterFile& adapter) {
    for (const TrainablePair& pair : trained_->pairs()) {
      const auto same = [&](const AdapterPair& p) {
        return p.layer == pair.layer && p.module == pair.module;
      };
      const auto found = std::find_if(adapter.pairs().begin(), adapter.pairs().end(), same);
      copy(read_adapter_tensor(adapter, found->a), trained_->value(trained_->parameters()[pair.a]));
      copy(read_adapter_tensor(adapter, found->b), trained_->value(trained_->parameters()[pair.b]));
    }
  }

  static void copy(const std::vector<float>& values, Mat out) {
    std::copy(values.begin(), values.end(), out.data);
  }

  /// PiSSA changes the base; its start is needed to express what was learnt relative to the unchanged one.
  std::vector<float> make_pissa_start() {
    if (!config_.pissa_init) {
      ForwardAdapter::initialize_magnitudes(*model_, *backend_, *trained_);
      return {};
    }
    initialize_pissa(*model_, *backend_, *trained_, config_.pissa_iter, static_cast<uint64_t>(config_.seed));
    const std::span<const float> values = trained_->values();
    return {values.begin(), values.end()};
  }

  int64_t parameter_count() const {
    int64_t count = static_cast<int64_t>(trained_->values().size());
    for_each_tensor(model_config(),
                    [&](const TensorSpec& spec) { count += spec.rows * std::max<int64_t>(1, spec.cols); });
    return count;
  }

  TrainOutcome train(std::vector<float> pissa_start, const std::optional<fs::path>& resume) {
    TrainingPass pass(*model_, *backend_, trained_.get(), options_);
    ForwardAdapter forward(*model_, *backend_, *trained_, options_.dtype);
    Optimizer optimizer(*backend_, *trained_,
                        {.beta1 = config_.adam_beta1,
                         .beta2 = config_.adam_beta2,
                         .epsilon = config_.adam_epsilon,
                         .weight_decay = config_.weight_decay,
                         .max_grad_norm = config_.max_grad_norm,
                         .loraplus_lr_ratio = config_.loraplus_lr_ratio,
                         .loraplus_lr_embedding = config_.loraplus_lr_embedding});
    const AdapterSaver saver(config_, *checkpoint_, base_fingerprint(*model_), *trained_,
                             std::move(pissa_start));
    Trainer trainer({.config = config_,
                     .trained = *trained_,
                     .pass = pass,
                     .forward = forward,
                     .optimizer = optimizer,
                     .objective = *objective_,
                     .evaluations = evaluations_,
                     .saver = saver,
                     .parameters = parameter_count()},
                    hooks_.trainer);
    if (config_.do_train) return trainer.run(resume);
    trainer.evaluate_only();
    return {};
  }

  const TrainConfig& config_;
  const FineTuneHooks& hooks_;
  size_t available_;
  std::unique_ptr<Checkpoint> checkpoint_;
  TrainingData data_;
  std::unique_ptr<Objective> objective_;
  std::vector<EvaluationSet> evaluations_;
  TrainingPassOptions options_;
  std::unique_ptr<TrainableAdapter> trained_;
  std::unique_ptr<TrainingBackend> backend_;
  std::unique_ptr<Model> model_;
};

}  // namespace

TrainOutcome fine_tune(const TrainConfig& config, const FineTuneHooks& hooks, size_t available_memory) {
  return FineTuning(config, hooks, available_memory).run();
}

}  // namespace polylora
