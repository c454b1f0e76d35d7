#include "tune/config/train_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "tune/config/config_keys.h"

namespace polylora {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// LLaMA-Factory's examples/train_lora/llama3_lora_sft.yaml, its last version.
constexpr const char* kLlama3Sft = R"(### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
# eval_dataset: alpaca_en_demo
# val_size: 0.1
# per_device_eval_batch_size: 1
# eval_strategy: steps
# eval_steps: 500
)";

// The form of June 2024, with the names still older files use.
constexpr const char* kOldestSft = R"(### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
flash_attn: auto

### method
stage: sft
do_train: true
finetuning_type: lora
lora_target: q_proj,v_proj

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 1024
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 0.0001
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_steps: 0.1
fp16: true

### eval
val_size: 0.1
per_device_eval_batch_size: 1
evaluation_strategy: steps
eval_steps: 500
)";

/// The least that trains, for tests that add one thing.
constexpr const char* kSmall = "model_name_or_path: m\ndo_train: true\ndataset: d\noutput_dir: o\n";

class TrainConfigTest : public ::testing::Test {
 protected:
  ~TrainConfigTest() override { std::filesystem::remove(path_); }

  std::filesystem::path write(const std::string& text) {
    std::ofstream(path_, std::ios::trunc) << text;
    return path_;
  }
  TrainConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_train_config(write(text), overrides);
  }
  ExportConfig read_export(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_export_config(write(text), overrides);
  }
  /// kSmall and `more`, whose first line is line 5.
  TrainConfig with(const std::string& more, const std::vector<std::string>& overrides = {}) {
    return read(kSmall + more, overrides);
  }

  /// The message of the Error that `call` throws, without the folder of the file; "" when it throws none.
  template <typename Call>
  std::string message(ErrorCode code, const Call& call) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      std::string text = error.what();
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      if (text.starts_with(path_.string())) text.replace(0, path_.string().size(), "x.yaml");
      return text;
    }
    return "";
  }
  std::string refusal(const std::string& more, const std::vector<std::string>& overrides = {}) {
    return message(ErrorCode::kInvalidArgument, [&] { with(more, overrides); });
  }
  std::string unsupported(const std::string& more) {
    return message(ErrorCode::kUnsupported, [&] { with(more); });
  }

  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("polylora_config_" + std::to_string(::getpid()) + ".yaml");
};

TEST_F(TrainConfigTest, ReadsTheSeedsOwnFile) {
  const TrainConfig config = read(kLlama3Sft);
  EXPECT_EQ(config.model_name_or_path, "meta-llama/Meta-Llama-3-8B-Instruct");
  EXPECT_EQ(config.stage, Stage::kSft);
  EXPECT_TRUE(config.do_train);
  EXPECT_FALSE(config.do_eval);
  EXPECT_EQ(config.lora_rank, 8);
  EXPECT_EQ(config.lora_alpha, 16.0);
  EXPECT_THAT(config.lora_target, ElementsAre("all"));
  EXPECT_THAT(config.dataset, ElementsAre("identity", "alpaca_en_demo"));
  EXPECT_EQ(config.template_name, "llama3");
  EXPECT_EQ(config.cutoff_len, 2048);
  EXPECT_EQ(config.max_samples, 1000);
  EXPECT_EQ(config.output_dir, "saves/llama3-8b/lora/sft");
  EXPECT_EQ(config.logging_steps, 10);
  EXPECT_EQ(config.save_steps, 500);
  EXPECT_TRUE(config.plot_loss);
  EXPECT_TRUE(config.overwrite_output_dir);
  EXPECT_FALSE(config.save_only_model);
  EXPECT_EQ(config.per_device_train_batch_size, 1);
  EXPECT_EQ(config.gradient_accumulation_steps, 8);
  EXPECT_EQ(config.learning_rate, 1e-4);
  EXPECT_EQ(config.num_train_epochs, 3.0);
  EXPECT_EQ(config.lr_scheduler_type, LrSchedule::kCosine);
  EXPECT_EQ(config.warmup_ratio, 0.1);
  EXPECT_TRUE(config.bf16);
  EXPECT_EQ(config.resume_from_checkpoint, "");
  EXPECT_FALSE(config.resume_from_last_checkpoint);
  EXPECT_FALSE(config.never_resume);
  EXPECT_FALSE(config.packing);
  EXPECT_THAT(config.notices,
              ElementsAre(AllOf(HasSubstr("preprocessing_num_workers, dataloader_num_workers are accepted")),
                          AllOf(HasSubstr("ddp_timeout is accepted and does nothing here: one machine"))));
}

TEST_F(TrainConfigTest, ReadsTheOldestForm) {
  const TrainConfig config = read(kOldestSft);
  EXPECT_THAT(config.lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(config.lora_rank, 8);
  EXPECT_EQ(config.warmup_steps, 0.1);
  EXPECT_EQ(config.eval_strategy, Interval::kSteps);
  EXPECT_EQ(config.eval_steps, 500);
  EXPECT_EQ(config.val_size, 0.1);
  EXPECT_TRUE(config.do_eval);
  EXPECT_TRUE(config.fp16);
  EXPECT_TRUE(config.bf16);
  EXPECT_THAT(config.notices, Contains("fp16 is computed as bf16 with f32 adapters"));
  EXPECT_THAT(config.notices, Not(Contains(HasSubstr("flash_attn"))));
}

TEST_F(TrainConfigTest, ReadsTheSiblingExamples) {
  const std::vector<std::string> sft = {"stage=pt", "dataset=c4_demo", "template=null"};
  const TrainConfig pretrain = read(kLlama3Sft, sft);
  EXPECT_EQ(pretrain.stage, Stage::kPt);
  EXPECT_EQ(pretrain.template_name, "");
  EXPECT_TRUE(pretrain.packing);
  EXPECT_EQ(pretrain.cutoff_len, 2048);

  const TrainConfig dpo =
      with("stage: dpo\npref_beta: 0.2\npref_loss: sigmoid  # choices: [sigmoid (dpo)]\n");
  EXPECT_EQ(dpo.stage, Stage::kDpo);
  EXPECT_EQ(dpo.pref_beta, 0.2);
  EXPECT_FALSE(dpo.packing);

  const TrainConfig qlora =
      with("quantization_bit: 4  # choices: [8 (bnb/hqq/eetq), 4]\nquantization_method: bnb\n");
  EXPECT_EQ(qlora.quantization_bit, 4);
  EXPECT_THAT(qlora.notices, ElementsAre(HasSubstr("quantization_method is accepted")));

  EXPECT_EQ(with("loraplus_lr_ratio: 16.0\n").loraplus_lr_ratio, 16.0);
  const TrainConfig pissa = with("pissa_init: true\npissa_iter: 16\npissa_convert: true\n");
  EXPECT_TRUE(pissa.pissa_init && pissa.pissa_convert);
  EXPECT_EQ(pissa.pissa_iter, 16);
}

TEST_F(TrainConfigTest, DefaultsAreThePeers) {
  const TrainConfig config = with("");
  EXPECT_EQ(config.lora_alpha, 16.0);
  EXPECT_EQ(config.learning_rate, 5e-5);
  EXPECT_EQ(config.lr_scheduler_type, LrSchedule::kLinear);
  EXPECT_EQ(config.per_device_train_batch_size, 8);
  EXPECT_EQ(config.logging_steps, 500);
  EXPECT_EQ(config.eval_steps, 0);
  EXPECT_EQ(config.eval_strategy, Interval::kNo);
  EXPECT_EQ(config.save_strategy, Interval::kSteps);
  EXPECT_EQ(config.metric_for_best_model, "eval_loss");
  EXPECT_FALSE(config.greater_is_better);
  EXPECT_EQ(config.seed, 42);
  EXPECT_FALSE(config.data_seed.has_value());
  EXPECT_FALSE(config.has_default_system);
  EXPECT_EQ(config.dataset_dir, "data");
  EXPECT_THAT(config.notices, IsEmpty());
  EXPECT_EQ(with("lora_rank: 4\n").lora_alpha, 8.0);
  EXPECT_EQ(with("lora_rank: 4\nlora_alpha: 4\n").lora_alpha, 4.0);
  EXPECT_TRUE(with("neat_packing: true\n").packing);
  EXPECT_FALSE(with("stage: pt\npacking: false\n").packing);
  EXPECT_FALSE(with("lora_alpha: null\nseed: ~\nwarmup_ratio:\n").greater_is_better);
}

TEST_F(TrainConfigTest, ReadsYamlScalarsAsThePeerDoes) {
  EXPECT_EQ(with("learning_rate: 1e-4\n").learning_rate, 1e-4);
  EXPECT_EQ(with("learning_rate: '2e-4'\n").learning_rate, 2e-4);
  EXPECT_EQ(with("max_steps: 1_000\n").max_steps, 1000);
  EXPECT_EQ(with("cutoff_len: 512.0\n").cutoff_len, 512);
  EXPECT_TRUE(with("plot_loss: Yes\n").plot_loss);
  EXPECT_TRUE(with("plot_loss: ON\n").plot_loss);
  EXPECT_FALSE(with("enable_thinking: no\n").enable_thinking);
  EXPECT_EQ(with("save_strategy: no\n").save_strategy, Interval::kNo);
  EXPECT_EQ(with("save_strategy: 'no'\n").save_strategy, Interval::kNo);
  EXPECT_EQ(with("save_strategy: epoch\n").save_strategy, Interval::kEpoch);
  EXPECT_THAT(with("lora_target: [q_proj, v_proj]\n").lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(with("lora_target:\n- q_proj\n- v_proj\n").lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(with("lora_target: q_proj , v_proj\n").lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(with("report_to: [none]\n").notices, IsEmpty());
  EXPECT_THAT(with("report_to: [wandb]\n").notices, ElementsAre(HasSubstr("trainer_log.jsonl")));
  EXPECT_EQ(with("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2, lr_end: 1e-8}\n")
                .lr_scheduler_kwargs.power,
            2.0);
  const TrainConfig system = with("default_system: 'You are: helpful'\n");
  EXPECT_TRUE(system.has_default_system);
  EXPECT_EQ(system.default_system, "You are: helpful");
}

TEST_F(TrainConfigTest, ReadsJson) {
  const TrainConfig config = read(
      "{\n\t\"model_name_or_path\": \"m\", \"do_train\": true,\n\t\"dataset\": \"d\", \"output_dir\": "
      "\"o\",\n"
      "\t\"learning_rate\": 1e-3, \"lora_dropout\": 0.1, \"max_samples\": null\n}\n");
  EXPECT_EQ(config.learning_rate, 1e-3);
  EXPECT_EQ(config.lora_dropout, 0.1);
}

TEST_F(TrainConfigTest, OverridesWin) {
  const TrainConfig config = read(
      kLlama3Sft, {"learning_rate=1e-5", "lora_target=[q_proj,v_proj]", "model_name_or_path=models/a=b.gguf",
                   "resume_from_checkpoint=true", "bf16=false", "ddp_timeout=null", "max_samples=null"});
  EXPECT_EQ(config.learning_rate, 1e-5);
  EXPECT_THAT(config.lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(config.model_name_or_path, "models/a=b.gguf");
  EXPECT_TRUE(config.resume_from_last_checkpoint);
  EXPECT_FALSE(config.bf16);
  EXPECT_EQ(config.max_samples, 0);
  EXPECT_THAT(config.notices, Not(Contains(HasSubstr("ddp_timeout"))));
  EXPECT_EQ(read(kOldestSft, {"eval_strategy=no", "val_size=0"}).eval_strategy, Interval::kNo);
}

TEST_F(TrainConfigTest, FlagsAreOverridesToo) {
  const TrainConfig config = with(
      "", {"--learning_rate", "1e-5", "--plot_loss", "--max-steps=-1", "--lora_target", "q_proj", "v_proj",
           "--no_enable_thinking", "--bf16", "lora_rank=4", "--default_system", "[INST] a: b"});
  EXPECT_EQ(config.learning_rate, 1e-5);
  EXPECT_TRUE(config.plot_loss);
  EXPECT_EQ(config.max_steps, -1);
  EXPECT_THAT(config.lora_target, ElementsAre("q_proj", "v_proj"));
  EXPECT_FALSE(config.enable_thinking);
  EXPECT_TRUE(config.bf16);
  EXPECT_EQ(config.lora_rank, 4);
  EXPECT_EQ(config.default_system, "[INST] a: b");
  const TrainConfig alone = read_train_config(
      "", {"--model_name_or_path", "m", "--do_train", "--dataset", "a,b", "--output_dir", "o"});
  EXPECT_THAT(alone.dataset, ElementsAre("a", "b"));
}

TEST_F(TrainConfigTest, ScheduleOptionsAreAMappingOrText) {
  const std::string file = "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr: 1e-6\n";
  EXPECT_EQ(with(file).lr_scheduler_kwargs.min_lr, 1e-6);
  EXPECT_EQ(with(file, {"lr_scheduler_kwargs.min_lr=2e-6"}).lr_scheduler_kwargs.min_lr, 2e-6);
  const std::vector<std::string> json = {"--lr_scheduler_kwargs", R"({"min_lr_rate": 0.1})"};
  EXPECT_EQ(with(file, json).lr_scheduler_kwargs.min_lr_rate, 0.1);
  EXPECT_THAT(refusal("lr_scheduler_type: cosine_with_min_lr\n"), HasSubstr("cosine_with_min_lr needs"));
  EXPECT_THAT(refusal("lr_scheduler_kwargs: {min_lr: 0}\n"),
              HasSubstr("min_lr is nothing this lr_scheduler_type reads"));
  EXPECT_THAT(refusal("lr_scheduler_kwargs: {minlr: 0}\n"),
              HasSubstr("x.yaml:5: lr_scheduler_kwargs: unknown member minlr"));
  EXPECT_THAT(refusal("lr_scheduler_kwargs: 3\n"), HasSubstr("is not a mapping"));
  EXPECT_THAT(
      refusal("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 0, min_lr_rate: 0}\n"),
      HasSubstr("exclude each other"));
}

TEST_F(TrainConfigTest, ResumesAsTold) {
  EXPECT_EQ(with("resume_from_checkpoint: o/checkpoint-5\n").resume_from_checkpoint, "o/checkpoint-5");
  EXPECT_TRUE(with("resume_from_checkpoint: true\n").resume_from_last_checkpoint);
  EXPECT_TRUE(with("resume_from_checkpoint: false\n").never_resume);
  EXPECT_FALSE(
      with("resume_from_checkpoint: true\n", {"resume_from_checkpoint=null"}).resume_from_last_checkpoint);
}

TEST_F(TrainConfigTest, UnknownKeysNameTheNearest) {
  EXPECT_EQ(refusal("\nlora_rnak: 8\n"), "x.yaml:6: lora_rnak: unknown key; did you mean lora_rank?");
  EXPECT_EQ(refusal("", {"learning_rat=1"}),
            "the command line: learning_rat: unknown key; did you mean learning_rate?");
  EXPECT_THAT(refusal("zzzzzzzzzzzz: 1\n"), HasSubstr("unknown key; docs/training.md lists all"));
  EXPECT_THAT(refusal("\"a\\nb\": 1\n"), HasSubstr("x.yaml:5: a?b: unknown key"));
  ::setenv("ALLOW_EXTRA_ARGS", "1", 1);
  const TrainConfig config = with("lora_rnak: 8\n");
  ::unsetenv("ALLOW_EXTRA_ARGS");
  EXPECT_THAT(config.notices, ElementsAre(HasSubstr("lora_rnak is unknown and ignored")));
}

TEST_F(TrainConfigTest, MalformedFilesNameTheLine) {
  EXPECT_EQ(refusal("lora_rank: 8\nlora_rank: 16\n"),
            "x.yaml:6: lora_rank: the key is given twice (first in " + path_.string() + ":5); remove one");
  EXPECT_THAT(refusal("eval_strategy: 'no'\nevaluation_strategy: 'no'\n"), HasSubstr("given twice"));
  EXPECT_THAT(refusal("a: [1,\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(message(ErrorCode::kInvalidArgument, [&] { read("- a\n- b\n"); }),
              HasSubstr("x.yaml:1: expected lines"));
  EXPECT_THAT(message(ErrorCode::kInvalidArgument, [&] { read(""); }),
              HasSubstr("x.yaml: model_name_or_path: missing"));
  EXPECT_THAT(refusal("? [a, b]\n: c\n"), HasSubstr("plain key"));
  EXPECT_THAT(refusal("", {"nonsense"}), HasSubstr("'nonsense' is neither key=value nor --key value"));
  EXPECT_NE(message(ErrorCode::kNotFound, [] { read_train_config("no/such/file.yaml", {}); }), "");
  std::string bomb = kSmall + std::string("a: &a ") + std::string(100000, 'x') + "\nb: [";
  for (int i = 0; i < 100; ++i) bomb += "*a, ";
  EXPECT_NE(message(ErrorCode::kResourceExhausted, [&] { read(bomb + "*a]\n"); }), "");
}

TEST_F(TrainConfigTest, WrongTypesSayWhatIsWanted) {
  EXPECT_EQ(refusal("lora_rank: 8x\n"), "x.yaml:5: lora_rank: '8x' is not an integer of at least 1");
  EXPECT_EQ(refusal("lora_rank: 0\n"), "x.yaml:5: lora_rank: '0' is not an integer of at least 1");
  EXPECT_THAT(refusal("lora_rank: 8.5\n"), HasSubstr("'8.5' is not an integer"));
  EXPECT_THAT(refusal("lora_rank: 1e12\n"), HasSubstr("is not an integer"));
  EXPECT_THAT(refusal("lora_rank: 010\n"), HasSubstr("is not an integer"));
  EXPECT_THAT(refusal("lora_rank: [8]\n"), HasSubstr("the list [8] is not an integer"));
  EXPECT_EQ(refusal("lora_dropout: 1\n"),
            "x.yaml:5: lora_dropout: '1' is not a number of at least 0 and below 1");
  EXPECT_THAT(refusal("learning_rate: -1\n"), HasSubstr("is not a number above 0"));
  EXPECT_THAT(refusal("learning_rate: .nan\n"), HasSubstr("is not a number above 0"));
  EXPECT_EQ(refusal("bf16: maybe\n"), "x.yaml:5: bf16: 'maybe' is not true or false");
  EXPECT_THAT(refusal("stage: stf\n"), HasSubstr("'stf' is not one of pt, sft, dpo"));
  EXPECT_THAT(refusal("lr_scheduler_type: warmup_stable_decay\n"), HasSubstr("is not one of linear, cosine"));
  EXPECT_THAT(refusal("lora_target: q_proj,,v_proj\n"), HasSubstr("empty name"));
  EXPECT_THAT(refusal("lora_target: {a: b}\n"), HasSubstr("a mapping is not a list of names"));
  EXPECT_THAT(refusal("template: [a]\n"), HasSubstr("is not a text"));
  EXPECT_THAT(refusal("save_steps: 2.5\n"), HasSubstr("share of all steps"));
  EXPECT_THAT(refusal("", {"lora_rank=-3"}),
              HasSubstr("the command line: lora_rank: '-3' is not an integer"));
}

TEST_F(TrainConfigTest, RefusesContradictions) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"val_size: 0.1\neval_dataset: e\n",
       "x.yaml:5: val_size: val_size and eval_dataset exclude each other"},
      {"val_size: 2.5\n", "x.yaml:5: val_size: 2.5 is neither"},
      {"mask_history: true\ntrain_on_prompt: true\n",
       "x.yaml:5: mask_history: mask_history and train_on_prompt"},
      {"quantization_bit: 4\npissa_init: true\n", "x.yaml:5: quantization_bit: pissa_init"},
      {"resize_vocab: true\n", "x.yaml:5: resize_vocab: "},
      {"add_tokens: a\n", "x.yaml:5: add_tokens: "},
      {"quantization_bit: 3\n", "x.yaml:5: quantization_bit: '3' is not 4 or 8"},
      {"quantization_bit: 8\nadapter_name_or_path: a\ncreate_new_adapter: true\n",
       "x.yaml:5: quantization_bit: create"},
      {"quantization_bit: 8\nadapter_name_or_path: a,b\n", "x.yaml:5: quantization_bit: of several adapters"},
      {"streaming: true\n", "x.yaml:5: streaming: needs max_steps"},
      {"streaming: true\nmax_steps: 5\nmax_samples: 5\n", "x.yaml:7: max_samples: "},
      {"streaming: true\nmax_steps: 5\nval_size: 0.5\n", "x.yaml:7: val_size: with streaming"},
      {"stage: pt\nneat_packing: true\n", "x.yaml:6: neat_packing: only stage sft"},
      {"stage: pt\ntrain_on_prompt: true\n", "x.yaml:6: train_on_prompt: only stage sft"},
      {"stage: dpo\npacking: true\n", "x.yaml:6: packing: stage dpo"},
      {"stage: dpo\npissa_init: true\n", "x.yaml:6: pissa_init: the reference"},
      {"load_best_model_at_end: true\n", "x.yaml:5: load_best_model_at_end: needs evaluations"},
      {"val_size: 1\neval_strategy: epoch\nload_best_model_at_end: true\n",
       "x.yaml:7: load_best_model_at_end: needs save_strategy"},
      {"val_size: 1\neval_strategy: steps\neval_steps: 300\nload_best_model_at_end: true\n",
       "x.yaml:8: load_best_model_at_end: save_steps 500 is not a multiple of eval_steps 300"},
      {"val_size: 1\neval_strategy: steps\neval_steps: 0.1\nload_best_model_at_end: true\n",
       "x.yaml:8: load_best_model_at_end: save_steps 500 is not a multiple"},
      {"early_stopping_steps: 3\n", "x.yaml:5: early_stopping_steps: needs load_best_model_at_end"},
      {"eval_strategy: steps\n", "x.yaml:5: eval_strategy: there is nothing to evaluate on"},
      {"do_eval: true\n", "x.yaml:5: do_eval: there is nothing to evaluate on"},
      {"eval_on_start: true\n", "x.yaml:5: eval_on_start: there is nothing to evaluate on"},
      {"bf16: true\nfp16: true\n", "x.yaml:6: fp16: bf16 and fp16 exclude each other"},
      {"interleave_probs: 0.5,0.5\n", "x.yaml:5: interleave_probs: mix_strategy concat"},
      {"interleave_probs: 0.5,0.5\nmix_strategy: interleave_under\n",
       "x.yaml:5: interleave_probs: 2 given for 1"},
      {"lr_scheduler_type: polynomial\nlearning_rate: 1e-8\n", "x.yaml: lr_scheduler_kwargs: lr_end"},
      {"val_size: 1\neval_strategy: steps\nload_best_model_at_end: true\nmetric_for_best_model: accuracy\n",
       "x.yaml:8: metric_for_best_model: accuracy is computed with"},
  };
  for (const auto& [more, wanted] : cases) EXPECT_THAT(refusal(more), ::testing::StartsWith(wanted)) << more;
}

TEST_F(TrainConfigTest, RefusesARunWithoutAGoal) {
  const auto of = [this](const std::string& text) {
    return message(ErrorCode::kInvalidArgument, [&] { read(text); });
  };
  EXPECT_THAT(of("model_name_or_path: m\ndataset: d\noutput_dir: o\n"),
              HasSubstr("x.yaml: do_train: neither do_train nor do_eval"));
  EXPECT_THAT(of("model_name_or_path: m\ndo_train: true\noutput_dir: o\n"),
              HasSubstr("x.yaml: dataset: missing"));
  EXPECT_THAT(of("model_name_or_path: m\ndo_train: true\ndataset: d\n"),
              HasSubstr("x.yaml: output_dir: missing"));
  EXPECT_THAT(of("do_train: true\ndataset: d\noutput_dir: o\n"),
              HasSubstr("x.yaml: model_name_or_path: missing"));
  EXPECT_THAT(of("model_name_or_path: m\ndo_eval: true\noutput_dir: o\nval_size: 3\n"),
              HasSubstr("x.yaml:4: val_size"));
  EXPECT_TRUE(read("model_name_or_path: m\ndo_eval: true\noutput_dir: o\neval_dataset: e\n").do_eval);
}

TEST_F(TrainConfigTest, RefusesWhatItDoesNotImplement) {
  for (const char* stage : {"rm", "ppo", "kto"}) {
    EXPECT_THAT(unsupported(std::string("stage: ") + stage + "\n"),
                HasSubstr("x.yaml:5: stage: '" + std::string(stage)));
  }
  for (const char* type : {"full", "freeze", "oft"}) {
    EXPECT_THAT(unsupported(std::string("finetuning_type: ") + type + "\n"),
                HasSubstr("set finetuning_type: lora"));
  }
  for (const char* line : {"use_galore: true",
                           "use_apollo: true",
                           "use_badam: true",
                           "use_muon: true",
                           "use_adam_mini: true",
                           "rope_scaling: linear",
                           "shift_attn: true",
                           "pref_loss: ipo",
                           "ref_model: r",
                           "do_predict: true",
                           "predict_with_generate: true",
                           "optim: lion_32bit",
                           "optim: adafactor",
                           "label_smoothing_factor: 0.1",
                           "pref_bco_weight: 0.1",
                           "tokenized_path: t",
                           "preserve_thinking: true",
                           "save_safetensors: false",
                           "dataloader_drop_last: true",
                           "eval_delay: 3",
                           "train_sampling_strategy: sequential"}) {
    const std::string key = std::string(line).substr(0, std::string(line).find(':'));
    EXPECT_THAT(refusal(std::string(line) + "\n"),
                AllOf(HasSubstr("x.yaml:5: " + key + ": "), HasSubstr(" is not supported: ")))
        << line;
  }
}

TEST_F(TrainConfigTest, ValuesThatAskForNothingPass) {
  const TrainConfig config = with(
      "use_galore: false\nrope_scaling: null\nshift_attn: no\ndo_predict: false\npref_loss: sigmoid\n"
      "predict_with_generate: false\noptim: adamw_torch\nlabel_smoothing_factor: 0.0\nsave_safetensors: "
      "true\n"
      "finetuning_type: lora\nuse_unsloth: false\nflash_attn: auto\npush_to_hub: false\nmodel_revision: "
      "main\n"
      "kto_chosen_weight: 1.0\nimage_max_pixels: 262144\nfreeze_vision_tower: true\nlow_cpu_mem_usage: true\n"
      "deepspeed: null\ngradient_checkpointing: true\n");
  EXPECT_THAT(config.notices, IsEmpty());
}

TEST_F(TrainConfigTest, NoticesSayWhatDoesNothing) {
  EXPECT_THAT(with("deepspeed: ds_z3.json\nfsdp: full_shard\n").notices,
              ElementsAre("deepspeed, fsdp are accepted and do nothing here: one machine, one process"));
  EXPECT_THAT(with("deepspeed: {stage: {a: [1]}}\n").notices,
              ElementsAre(HasSubstr("deepspeed is accepted")));
  EXPECT_THAT(with("optim: adamw_8bit\n").notices,
              ElementsAre("optim adamw_8bit is computed as AdamW in f32"));
  EXPECT_THAT(with("pure_bf16: true\n").notices,
              ElementsAre("pure_bf16 is computed as bf16 with f32 adapters"));
  EXPECT_TRUE(with("pure_bf16: true\n").bf16);
  for (const char* line : {"use_unsloth: true", "enable_liger_kernel: true", "flash_attn: fa2",
                           "use_swanlab: true", "hub_token: t", "cache_dir: c", "temperature: 0.5",
                           "max_new_tokens: 9", "use_ray: true", "gradient_checkpointing: false",
                           "tf32: true", "freeze_trainable_layers: 2", "galore_rank: 4", "export_dir: e"}) {
    const std::string key = std::string(line).substr(0, std::string(line).find(':'));
    EXPECT_THAT(with(std::string(line) + "\n").notices, ElementsAre(HasSubstr(key + " is accepted"))) << line;
  }
  const TrainConfig streamed = with("streaming: true\nmax_steps: 5\n");
  EXPECT_THAT(streamed.notices,
              ElementsAre(HasSubstr("streaming is accepted and does nothing here: data is read whole")));
}

TEST_F(TrainConfigTest, ResolvesTheBestModelsMetric) {
  const std::string eval =
      "val_size: 10\neval_strategy: steps\neval_steps: 250\nload_best_model_at_end: true\n";
  EXPECT_EQ(with(eval).metric_for_best_model, "eval_loss");
  EXPECT_FALSE(with(eval).greater_is_better);
  const TrainConfig accuracy =
      with(eval + "compute_accuracy: true\nmetric_for_best_model: accuracy\nearly_stopping_steps: 2\n");
  EXPECT_EQ(accuracy.metric_for_best_model, "eval_accuracy");
  EXPECT_TRUE(accuracy.greater_is_better);
  EXPECT_EQ(accuracy.early_stopping_steps, 2);
  EXPECT_TRUE(with(eval + "greater_is_better: true\n").greater_is_better);
  EXPECT_TRUE(with("val_size: 10\neval_strategy: steps\neval_steps: 0.1\nsave_steps: "
                   "0.3\nload_best_model_at_end: true\n")
                  .load_best_model_at_end);
}

TEST(TrainConfigKeys, DocumentsListThemAndNoOthers) {
  const std::string text = read_text_file(POLYLORA_TEST_DATA "/../../docs/training.md");
  const size_t begin = text.find("## Keys");
  ASSERT_NE(begin, std::string::npos);
  const std::string section = text.substr(begin, text.find("\n## ", begin) - begin);

  std::vector<std::string> known;
  append_names(train_keys(), known);
  append_names(foreign_train_keys(), known);
  append_names(export_keys(), known);
  append_names(foreign_export_keys(), known);
  for (const std::string& key : known) EXPECT_THAT(section, HasSubstr("`" + key + "`"));

  // The first column of every table, `key` by `key`.
  for (size_t row = section.find("\n| `"); row != std::string::npos; row = section.find("\n| `", row + 1)) {
    const std::string column = section.substr(row + 3, section.find(" | ", row) - row - 3);
    for (size_t tick = 0; (tick = column.find('`', tick)) != std::string::npos; ++tick) {
      const size_t end = column.find('`', tick + 1);
      EXPECT_THAT(known, Contains(column.substr(tick + 1, end - tick - 1)));
      tick = end;
    }
  }
}

TEST(TrainConfigKeys, HaveOneMeaningEach) {
  std::vector<std::string> names;
  append_names(train_keys(), names);
  append_names(foreign_train_keys(), names);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST_F(TrainConfigTest, ReadsTheMergeFile) {
  const ExportConfig config =
      read_export(R"(### Note: DO NOT use quantized model or quantization_bit when merging lora adapters
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
adapter_name_or_path: saves/llama3-8b/lora/sft
template: llama3
trust_remote_code: true
finetuning_type: lora
export_dir: output/llama3_lora_sft
export_size: 5
export_device: cpu  # choices: [cpu, auto]
export_legacy_format: false
)",
                  {"export_device=auto"});
  EXPECT_THAT(config.adapter_name_or_path, ElementsAre("saves/llama3-8b/lora/sft"));
  EXPECT_EQ(config.export_dir, "output/llama3_lora_sft");
  EXPECT_EQ(config.export_size, 5.0);
  EXPECT_EQ(config.template_name, "llama3");
  EXPECT_EQ(config.infer_dtype, "auto");
  EXPECT_EQ(config.format, "safetensors");
  EXPECT_THAT(config.notices, IsEmpty());
}

TEST_F(TrainConfigTest, ExportRefusesWhatItCannotDo) {
  const std::string merge = "model_name_or_path: m\nadapter_name_or_path: a, b\nexport_dir: e\n";
  EXPECT_THAT(read_export(merge).adapter_name_or_path, ElementsAre("a", "b"));
  const auto of = [&](const std::string& more) {
    return message(ErrorCode::kInvalidArgument, [&] { read_export(merge + more); });
  };
  EXPECT_THAT(of("quantization_bit: 4\n"), HasSubstr("x.yaml:4: quantization_bit: '4' is not supported"));
  EXPECT_THAT(of("export_quantization_bit: 4\n"), HasSubstr("x.yaml:4: export_quantization_bit"));
  EXPECT_THAT(of("export_legacy_format: true\n"), HasSubstr("x.yaml:4: export_legacy_format"));
  EXPECT_THAT(of("export_device: cuda\n"), HasSubstr("set cpu or auto"));
  EXPECT_THAT(of("export_size: -1\n"), HasSubstr("is not a number of at least 0"));
  EXPECT_THAT(of("infer_dtype: fp8\n"), HasSubstr("is not one of auto, float16, bfloat16, float32"));
  EXPECT_THAT(of("format: onnx\n"), HasSubstr("is not one of safetensors, gguf, gguf-lora"));
  EXPECT_THAT(of("format: gguf-lora\n"), HasSubstr("gguf-lora converts one adapter"));
  EXPECT_THAT(of("exprt_size: 1\n"), HasSubstr("did you mean export_size?"));
  EXPECT_THAT(of("add_tokens: x\n"), HasSubstr("tokens are added in training"));
  EXPECT_THAT(message(ErrorCode::kInvalidArgument, [&] { read_export("model_name_or_path: m\n"); }),
              HasSubstr("export_dir: missing"));
  EXPECT_THAT(message(ErrorCode::kUnsupported, [&] { read_export(merge + "finetuning_type: full\n"); }),
              HasSubstr("finetuning_type"));
  EXPECT_THAT(read_export(merge + "export_hub_model_id: h\nlora_rank: 8\ncache_dir: c\n").notices,
              ElementsAre(HasSubstr("export_hub_model_id is accepted"), HasSubstr("lora_rank is accepted"),
                          HasSubstr("cache_dir is accepted")));
}

}  // namespace
}  // namespace polylora
