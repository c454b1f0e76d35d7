#include "tune/run/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "tune/run/loss_plot.h"
#include "tune/run/model_card.h"

/// Read by the leak sanitizer: fontconfig links what it caches through offsets, which look like leaks.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libfontconfig\n";
}

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

class RunLogTest : public testing::Test {
 protected:
  RunLogTest() {
    std::string pattern = (fs::temp_directory_path() / "polylora-run-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    facts_ = {.output_dir = folder_,
              .max_steps = 92,
              .num_train_epochs = 4,
              .train_batch_size = 4,
              .logging_steps = 5,
              .save_steps = 5000,
              .eval_steps = 500};
  }
  ~RunLogTest() override { fs::remove_all(folder_); }

  std::string read(const std::string& name) const { return read_text_file(folder_ / name); }
  std::vector<std::string> log_lines() const {
    std::ifstream file(folder_ / "trainer_log.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  /// Steps of 2 s; logs at 5, 10, …, an evaluation after each second one.
  void run(RunLog& log, int64_t from, int64_t to, double elapsed_at_from) const {
    for (int64_t step = from + 5; step <= to; step += 5) {
      RunPosition at = position(step, 2.0 * static_cast<double>(step) - elapsed_at_from);
      log.log_step(at, {.loss = 1.0 / static_cast<double>(step), .grad_norm = 0.5, .learning_rate = 1e-4});
      if (step % 10 == 0)
        log.log_eval(
            at, {.loss = 2.0 / static_cast<double>(step), .runtime_s = 1.5, .samples = 12, .batches = 3});
    }
  }
  RunPosition position(int64_t step, double elapsed) const {
    return {.step = step,
            .epoch = static_cast<double>(step) / 23,
            .elapsed_s = elapsed,
            .total_flos = 1e9 * static_cast<double>(step)};
  }
  fs::path save_checkpoint(const RunLog& log, const RunPosition& at) const {
    const fs::path checkpoint = folder_ / fmt::format("checkpoint-{}", at.step);
    fs::create_directories(checkpoint);
    log.write_state(checkpoint, at);
    return checkpoint;
  }

  fs::path folder_;
  RunFacts facts_;
};

/// The first and the last line of a log that LLaMA-Factory 0.9.5 wrote.
TEST_F(RunLogTest, WritesThePeersLines) {
  RunLog log(facts_);
  log.log_step({.step = 5, .epoch = 0.21739130434782608, .elapsed_s = 23.83},
               {.loss = 2.2882177352905275, .grad_norm = 0.7425721287727356, .learning_rate = 0.0002});
  log.log_step({.step = 90, .epoch = 3.9130434782608696, .elapsed_s = 306.2},
               {.loss = 0.5927904129028321, .grad_norm = 0.86, .learning_rate = 1.6494775600812416e-06});
  log.finish({.step = 92, .epoch = 4.0, .elapsed_s = 310.98, .total_flos = 36452803921920.0},
             {.train_loss = 1.0495119133721227, .runtime_s = 310.98764, .samples = 364});
  EXPECT_THAT(
      log_lines(),
      ElementsAre(R"({"current_steps": 5, "total_steps": 92, "loss": 2.2882177352905275, "lr": 0.0002, )"
                  R"("epoch": 0.21739130434782608, "percentage": 5.43, "elapsed_time": "0:00:23", )"
                  R"("remaining_time": "0:06:54"})",
                  R"({"current_steps": 90, "total_steps": 92, "loss": 0.5927904129028321, )"
                  R"("lr": 1.6494775600812416e-06, "epoch": 3.9130434782608696, "percentage": 97.83, )"
                  R"("elapsed_time": "0:05:06", "remaining_time": "0:00:06"})",
                  R"({"current_steps": 92, "total_steps": 92, "epoch": 4.0, "percentage": 100.0, )"
                  R"("elapsed_time": "0:05:10", "remaining_time": "0:00:00"})"));
}

TEST_F(RunLogTest, WritesThePeersResults) {
  RunLog log(facts_);
  log.finish({.step = 92, .epoch = 4.0, .elapsed_s = 310.98, .total_flos = 36452803921920.0},
             {.train_loss = 1.0495119133721227, .runtime_s = 310.98764, .samples = 364});
  const std::string expected = R"({
    "epoch": 4.0,
    "total_flos": 36452803921920.0,
    "train_loss": 1.0495119133721227,
    "train_runtime": 310.9876,
    "train_samples_per_second": 1.17,
    "train_steps_per_second": 0.296
})";
  EXPECT_EQ(read("train_results.json"), expected);
  EXPECT_EQ(read("all_results.json"), expected);
  EXPECT_FALSE(fs::exists(folder_ / "eval_results.json"));

  log.write_eval_results();
  EXPECT_FALSE(fs::exists(folder_ / "eval_results.json")) << "nothing was evaluated";
  log.log_eval({.step = 92, .epoch = 4.0},
               {.loss = 0.5, .runtime_s = 2.0, .samples = 9, .batches = 5, .extra = {{"accuracy", 0.25}}});
  log.write_eval_results();
  EXPECT_EQ(json::parse(read("eval_results.json")), (json{{"epoch", 4.0},
                                                          {"eval_accuracy", 0.25},
                                                          {"eval_loss", 0.5},
                                                          {"eval_runtime", 2.0},
                                                          {"eval_samples_per_second", 4.5},
                                                          {"eval_steps_per_second", 2.5}}));
  const json all = json::parse(read("all_results.json"));
  EXPECT_EQ(all["train_loss"], 1.0495119133721227);
  EXPECT_EQ(all["eval_loss"], 0.5);
}

/// Everything but the history and the callbacks' content, as transformers wrote it for the same run.
TEST_F(RunLogTest, WritesTheStateThatTransformersReads) {
  RunLog log(facts_);
  log.log_step({.step = 5, .epoch = 0.25}, {.loss = 2.5, .grad_norm = 0.5, .learning_rate = 0.125});
  log.log_eval({.step = 5, .epoch = 0.25}, {.loss = 1.5, .runtime_s = 2, .samples = 8, .batches = 4});
  const std::string text = log.state_json({.step = 92, .epoch = 4.0, .total_flos = 36452803921920.0});
  const json state = json::parse(text);
  std::vector<std::string> keys;
  for (const auto& [key, value] : state.items()) keys.push_back(key);
  EXPECT_THAT(keys,
              ElementsAre("best_global_step", "best_metric", "best_model_checkpoint", "epoch", "eval_steps",
                          "global_step", "is_hyper_param_search", "is_local_process_zero",
                          "is_world_process_zero", "log_history", "logging_steps", "max_steps",
                          "num_input_tokens_seen", "num_train_epochs", "save_steps", "stateful_callbacks",
                          "total_flos", "train_batch_size", "trial_name", "trial_params"));
  EXPECT_THAT(
      text,
      HasSubstr("    {\n      \"epoch\": 0.25,\n      \"grad_norm\": 0.5,\n      \"learning_rate\": 0.125,\n"
                "      \"loss\": 2.5,\n      \"step\": 5\n    }"));
  EXPECT_EQ(state["log_history"][1], (json{{"epoch", 0.25},
                                           {"eval_loss", 1.5},
                                           {"eval_runtime", 2.0},
                                           {"eval_samples_per_second", 4.0},
                                           {"eval_steps_per_second", 2.0},
                                           {"step", 5}}));
  EXPECT_EQ(state["best_metric"], nullptr);
  EXPECT_EQ(state["global_step"], 92);
  EXPECT_EQ(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"], true);
}

TEST_F(RunLogTest, AResumedRunEndsWithTheFilesOfAnUninterruptedOne) {
  RunLog whole(facts_);
  run(whole, 0, 40, 0);
  const std::vector<std::string> expected_lines = log_lines();
  const std::string expected_state = whole.state_json(position(40, 80));

  RunLog killed(facts_);
  run(killed, 0, 20, 0);
  killed.best = BestModel{10, 0.2, "checkpoint-10"};
  const fs::path checkpoint = save_checkpoint(killed, position(20, 40));
  run(killed, 20, 30, 0);  // lost: after the checkpoint
  std::ofstream(folder_ / "trainer_log.jsonl", std::ios::app) << "{\"current_steps\": 3";  // a torn line

  RunLog resumed(facts_, checkpoint);
  EXPECT_EQ(resumed.resumed_at().step, 20);
  EXPECT_EQ(resumed.resumed_at().total_flos, 2e10);
  ASSERT_TRUE(resumed.best);
  EXPECT_EQ(resumed.best->checkpoint, "checkpoint-10");
  resumed.best.reset();
  EXPECT_EQ(log_lines().size(), 6u) << "4 logs and 2 evaluations";
  run(resumed, 20, 40, 40);
  EXPECT_EQ(log_lines(), expected_lines);
  EXPECT_EQ(resumed.state_json(position(40, 80)), expected_state);
}

TEST_F(RunLogTest, ResumingAFinishedRunDropsItsSummaryLine) {
  RunLog log(facts_);
  run(log, 0, 20, 0);
  const fs::path checkpoint = save_checkpoint(log, position(20, 40));
  log.finish(position(20, 40), {.train_loss = 1, .runtime_s = 40, .samples = 80});
  const size_t lines = log_lines().size();
  RunLog resumed(facts_, checkpoint);
  EXPECT_EQ(log_lines().size(), lines - 1);
}

TEST_F(RunLogTest, ANewRunForgetsTheOldOne) {
  RunLog old(facts_);
  old.finish(position(92, 1), {.train_loss = 1, .runtime_s = 1, .samples = 1});
  const RunLog fresh(facts_);
  EXPECT_FALSE(fs::exists(folder_ / "trainer_log.jsonl"));
  EXPECT_FALSE(fs::exists(folder_ / "all_results.json"));
  EXPECT_EQ(fresh.resumed_at().step, 0);
}

TEST_F(RunLogTest, KeepsBestModelAndPatience) {
  facts_.early_stopping_patience = 3;
  RunLog log(facts_);
  log.best = BestModel{10, 0.25, "out/checkpoint-10"};
  log.early_stopping_counter = 2;
  const fs::path checkpoint = save_checkpoint(log, position(20, 40));
  const json state = json::parse(read_text_file(checkpoint / "trainer_state.json"));
  EXPECT_EQ(state["best_model_checkpoint"], "out/checkpoint-10");
  EXPECT_EQ(state["stateful_callbacks"]["EarlyStoppingCallback"]["args"]["early_stopping_patience"], 3);
  const RunLog resumed(facts_, checkpoint);
  EXPECT_EQ(resumed.early_stopping_counter, 2);
  EXPECT_EQ(resumed.best->metric, 0.25);
}

TEST_F(RunLogTest, RefusesAStateThatIsNone) {
  for (const char* text :
       {"[]", "{}", R"({"log_history": 3, "global_step": 1})", R"({"log_history": [1], "global_step": 1})",
        R"({"log_history": [], "global_step": -1})", R"({"log_history": [], "global_step": "1"})", "{",
        R"({"log_history": [], "global_step": 9223372036854775807})",
        R"({"log_history": [], "global_step": 1, "num_input_tokens_seen": 1e300})",
        R"({"log_history": [], "global_step": 1, "best_metric": 1, "best_global_step": -1e300})"}) {
    write_file_atomic(folder_ / "trainer_state.json", text);
    try {
      RunLog log(facts_, folder_);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataCorrupt) << text;
      EXPECT_THAT(error.what(), HasSubstr("trainer_state.json"));
    }
  }
}

TEST_F(RunLogTest, ReportsTokensOnlyWhenTheyAreCounted) {
  RunLog log(facts_);
  RunPosition at = position(5, 4);
  at.input_tokens = 1001;
  log.log_step(at, {.loss = 1, .grad_norm = 1, .learning_rate = 1});
  EXPECT_THAT(log_lines()[0], HasSubstr(R"(, "throughput": 250.25, "total_tokens": 1001})"));
  EXPECT_EQ(log.history()[0]["num_input_tokens_seen"], 1001);
}

TEST_F(RunLogTest, ALossThatIsNoNumberLeavesReadableFiles) {
  RunLog log(facts_);
  log.log_step(position(5, 4),
               {.loss = std::numeric_limits<double>::quiet_NaN(), .grad_norm = 1, .learning_rate = 1});
  log.log_step(position(10, 4),
               {.loss = 1, .grad_norm = 1, .learning_rate = 1, .extra = {{"rewards/accuracies", 0.75}}});
  EXPECT_FALSE(json::parse(log_lines()[0]).contains("loss"));
  EXPECT_EQ(json::parse(log_lines()[1])["accuracy"], 0.75);
  const fs::path checkpoint = save_checkpoint(log, position(10, 4));
  const RunLog resumed(facts_, checkpoint);
  EXPECT_EQ(resumed.history().size(), 2u);
  EXPECT_EQ(write_loss_plots(folder_, resumed.history(), {"loss"}).size(), 1u);
}

TEST(RunResults, RoundsAndTellsTimeAsPython) {
  EXPECT_EQ(rounded(5.434782608695652, 2), 5.43);
  EXPECT_EQ(rounded(100.0, 2), 100.0);
  EXPECT_EQ(duration_text(9.99), "0:00:09");
  EXPECT_EQ(duration_text(-1), "0:00:00");
  EXPECT_EQ(duration_text(3 * 3600 + 61), "3:01:01");
  EXPECT_EQ(duration_text(86400 + 3600), "1 day, 1:00:00");
  EXPECT_EQ(duration_text(10 * 86400), "10 days, 0:00:00");
  for (const double seconds : {0.0, 59.0, 90000.0, 864001.0})
    EXPECT_EQ(static_cast<double>(parse_duration(duration_text(seconds))), seconds);
  EXPECT_EQ(parse_duration("soon"), 0);
  EXPECT_EQ(parse_duration("soon, 1:00:00"), 0);
  EXPECT_LT(parse_duration("9223372036854775807 days, 1:00:00"), int64_t{1} << 47);  // must not overflow
}

TEST_F(RunLogTest, ResultsSurviveADamagedAllResults) {
  write_file_atomic(folder_ / "all_results.json", "{\"epoch\":");
  write_results(folder_, "eval", {{"eval_loss", 1.5}});
  EXPECT_EQ(json::parse(read("all_results.json")), (json{{"eval_loss", 1.5}}));
}

TEST(LossPlotMath, SmoothsAsThePeerDoes) {
  EXPECT_TRUE(smooth({}).empty());
  EXPECT_THAT(smooth({2.0}), ElementsAre(2.0));
  // n = 3: w = 1.8 (1 / (1 + e^-0.15) - 0.5)
  const double weight = 0.06737372161874931;
  const std::vector<double> smoothed = smooth({1.0, 2.0, 3.0});
  EXPECT_NEAR(smoothed[1], 2.0 - weight, 1e-8);
  EXPECT_NEAR(smoothed[2], 3.0 - weight * (1 + weight), 1e-8);
}

TEST(LossPlotMath, TicksAreRoundNumbersInsideTheRange) {
  EXPECT_THAT(axis_ticks(0.0, 1.0, 5), ElementsAre(0.0, 0.2, 0.4, testing::DoubleEq(0.6), 0.8, 1.0));
  EXPECT_THAT(axis_ticks(0.7, 92.0, 5), ElementsAre(20, 40, 60, 80));
  EXPECT_THAT(axis_ticks(-3.0, 7.0, 4), ElementsAre(-2.5, 0, 2.5, 5));
}

/// Width and height of a PNG.
std::pair<uint32_t, uint32_t> png_size(const std::string& bytes) {
  const auto at = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes.at(i))); };
  const auto read = [&](size_t i) { return at(i) << 24 | at(i + 1) << 16 | at(i + 2) << 8 | at(i + 3); };
  return {read(16), read(20)};
}

TEST_F(RunLogTest, DrawsWhatWasLogged) {
  RunLog log(facts_);
  run(log, 0, 40, 0);
  const auto files = write_loss_plots(folder_, log.history(), {"loss", "eval_loss", "rewards/accuracies"});
  EXPECT_THAT(files, ElementsAre(folder_ / "training_loss.png", folder_ / "training_eval_loss.png"));
  const std::string png = read("training_loss.png");
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(png_size(png), (std::pair<uint32_t, uint32_t>{1280, 960}));
  EXPECT_NE(png, read("training_eval_loss.png"));
}

TEST_F(RunLogTest, DrawsHardCases) {
  const std::vector<std::vector<double>> cases = {{1.0},
                                                  {2.0, 2.0, 2.0},
                                                  {0, 0},
                                                  {1e18, 1e18 + 256},
                                                  {1e-9, 2e-9},
                                                  {-1, 1e300},
                                                  {1, std::numeric_limits<double>::infinity(), 2}};
  for (const auto& values : cases) {
    std::vector<double> steps;
    for (size_t i = 0; i < values.size(); ++i) steps.push_back(static_cast<double>(i));
    draw_loss_plot(folder_ / "hard.png", {"title", "loss", steps, values});
    EXPECT_EQ(png_size(read("hard.png")).first, 1280u);
  }
}

TEST_F(RunLogTest, TheModelCardNamesBaseDataAndResults) {
  RunLog log(facts_);
  run(log, 0, 20, 0);
  log.finish(position(20, 40), {.train_loss = 0.125, .runtime_s = 40, .samples = 80});
  TrainConfig config;
  config.model_name_or_path = "some-org/some-model";
  config.output_dir = folder_;
  config.dataset = {"identity", "alpaca_en_demo"};
  config.lora_alpha = 16;
  config.gradient_accumulation_steps = 8;
  config.per_device_train_batch_size = 2;
  config.warmup_ratio = 0.1;
  config.lr_scheduler_type = LrSchedule::kCosine;
  write_model_card(folder_, config, log.history());
  const std::string card = read("README.md");
  EXPECT_EQ(card.substr(0, 4), "---\n");
  for (const char* part :
       {"library_name: peft\nlicense: other\nbase_model: some-org/some-model\n",
        "- base_model:adapter:some-org/some-model\n", "https://huggingface.co/some-org/some-model",
        "identity, alpaca_en_demo", "- learning_rate: 5e-05\n", "- total_train_batch_size: 16\n",
        "- lr_scheduler_type: cosine\n", "- lr_scheduler_warmup_ratio: 0.1\n", "- num_epochs: 3.0\n",
        "- Loss: 0.1000\n", "Mean training loss: 0.1250",
        "| 0.0500        | 0.8696 | 20    | 0.1000          |\n"})
    EXPECT_THAT(card, HasSubstr(part));

  config.model_name_or_path = "/home/me/models/base.gguf";
  config.max_steps = 7;
  const std::string local = model_card_text(config, json::array());
  EXPECT_THAT(local, HasSubstr("base_model: \"base.gguf\"\n"));
  EXPECT_THAT(local, HasSubstr("- training_steps: 7\n"));
  EXPECT_THAT(local, testing::Not(HasSubstr("/home/me")));
  EXPECT_THAT(local, testing::Not(HasSubstr("Training results")));
}

}  // namespace
}  // namespace polylora
