// Checkpoints on disk: complete or absent, rotated as transformers does, restored bit for bit.
#include "tune/run/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "tiny_training.h"
#include "tune/train/memory_plan.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RunFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("polylora_run_folder.{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void fill(const fs::path& folder) { write_file_atomic(folder / "content", "x"); }

  fs::path folder_;
};

TEST_F(RunFolder, AFailedWriteLeavesNoCheckpoint) {
  const CheckpointFolders checkpoints(folder_);
  EXPECT_THROW(checkpoints.write(5,
                                 [](const fs::path& folder) {
                                   fill(folder);
                                   fail(ErrorCode::kIo, "the disk is full");
                                 }),
               Error);
  EXPECT_THAT(checkpoints.steps(), ElementsAre());
  checkpoints.remove_partial();
  EXPECT_TRUE(fs::is_empty(folder_));
  checkpoints.write(5, fill);
  checkpoints.write(5, fill);  // again, after a resume from an older one
  EXPECT_THAT(checkpoints.steps(), ElementsAre(5));
}

TEST_F(RunFolder, RotationKeepsTheNewestAndTheBest) {
  const CheckpointFolders checkpoints(folder_);
  for (const int64_t step : {10, 20, 30, 100}) checkpoints.write(step, fill);
  fs::create_directories(folder_ / "checkpoint-abc");  // not ours
  EXPECT_EQ(checkpoints.last()->filename(), "checkpoint-100");
  checkpoints.rotate(2, (folder_ / "checkpoint-10").string());
  EXPECT_THAT(checkpoints.steps(), ElementsAre(10, 100));
  checkpoints.rotate(0, "");
  EXPECT_THAT(checkpoints.steps(), ElementsAre(10, 100)) << "0 keeps all";
  checkpoints.rotate(1, (folder_ / "checkpoint-10").string());
  EXPECT_THAT(checkpoints.steps(), ElementsAre(10, 100))
      << "the newest is needed to resume, the best to be loaded";
}

TEST_F(RunFolder, TrainingStateComesBackBitForBit) {
  LoraSettings settings;
  settings.rank = 3;
  settings.use_dora = true;
  const ModelConfig config = ::polylora::testing::tiny_config();
  const TrainableAdapter saved(config, settings), restored(config, settings);
  uint64_t counter = 0;
  for (const std::span<float> buffer : {saved.values(), saved.first_moments(), saved.second_moments()}) {
    for (const Parameter& parameter : saved.parameters()) {
      for (size_t i = 0; i < parameter.size(); ++i)
        buffer[parameter.offset + i] = static_cast<float>(random_uniform(9, 1, counter++));
    }
  }
  write_optimizer_state(folder_, saved, /*with_values=*/true);
  read_training_state(folder_, restored);
  for (const auto& [a, b] : {std::pair(saved.values(), restored.values()),
                             std::pair(saved.first_moments(), restored.first_moments()),
                             std::pair(saved.second_moments(), restored.second_moments())})
    EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size_bytes()));

  settings.rank = 4;
  const TrainableAdapter other(config, settings);
  try {
    read_training_state(folder_, other);
    FAIL() << "another rank was taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("does not fit lora_rank"));
  }
}

TEST_F(RunFolder, AModelSavedAloneCannotBeResumed) {
  const TrainableAdapter trained(::polylora::testing::tiny_config(), LoraSettings());
  try {
    read_training_state(folder_, trained);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("save_only_model"));
  }
}

TEST(MemoryPlan, RefusesWhatDoesNotFitAndSaysWhatToChange) {
  ModelConfig model = ::polylora::testing::tiny_config();
  model.hidden_size = 2048;
  model.intermediate_size = 8192;
  model.num_layers = 16;
  model.head_dim = 64;
  model.num_heads = 32;
  model.num_kv_heads = 8;
  TrainConfig config;
  TrainingPassOptions options;
  options.max_rows = options.max_positions = 2048;
  const auto plan = [&](size_t available) {
    return plan_memory(config, model, WeightPolicy::kBf16, 1 << 20, options, available);
  };
  const MemoryPlan roomy = plan(size_t{64} << 30);
  EXPECT_GT(roomy.kept_layers, 0);
  EXPECT_LT(roomy.kept_layers, 16) << "2048 rows of 16 layers are more than half the weights";
  const MemoryPlan tight = plan(roomy.total() - roomy.activations + (size_t{64} << 20));
  EXPECT_EQ(tight.kept_layers, 0) << "what is left is taken, and no more";
  try {
    plan(size_t{1} << 30);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_THAT(error.what(), HasSubstr("lower cutoff_len (now 2048"));
    EXPECT_THAT(error.what(), HasSubstr("quantization_bit: 8 or 4"));
  }
  config.disable_gradient_checkpointing = true;
  EXPECT_EQ(plan(size_t{64} << 30).kept_layers, 16);
}

}  // namespace
}  // namespace polylora
