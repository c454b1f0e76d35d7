#include "cli/lora_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "cli/lora_publisher.h"
#include "engine/tiny_model.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::write_adapter;
using Clock = LoraPublisher::Clock;

class LoraWatchTest : public ::testing::Test {
 protected:
  LoraWatchTest() : out_(folder_ / "run"), publisher_(registry_, {{"run", out_}}, {"base"}) {
    publisher_.set_reports({.removed = [this](const std::string& name) { removed_.push_back(name); },
                            .info = {},
                            .warning = [this](const std::string& line) { warnings_.push_back(line); }});
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const AdapterInfo& info : registry_.list()) names.push_back(info.name);
    return names;
  }
  void scan(seconds at = seconds(0)) { next_ = publisher_.scan(start_ + at); }
  /// As a trainer does it: written elsewhere, then renamed.
  fs::path add_checkpoint(int step, unsigned seed = 1) {
    const fs::path place = out_ / ("checkpoint-" + std::to_string(step));
    fs::rename(write_adapter(out_ / "tmp-checkpoint", seed), place);
    return place;
  }

  const std::unique_ptr<Backend> backend_ = make_backend({.name = "cpu", .threads = 1});
  const Model model_ = testing::tiny_model(*backend_);
  const testing::TempFolder folder_;
  const fs::path out_;
  AdapterRegistry registry_{
      {{.model = &model_, .dtype = DType::kF32, .max_lora_rank = 8}}, *backend_, {.memory_bytes = 1 << 20}};
  LoraPublisher publisher_;
  std::vector<std::string> removed_, warnings_;
  const Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> next_;
};

TEST_F(LoraWatchTest, PublishesCheckpointsAndTheFinalAdapter) {
  scan();
  EXPECT_THAT(names(), IsEmpty()) << "the folder does not exist yet";
  add_checkpoint(20);
  add_checkpoint(5);
  add_checkpoint(100);
  fs::create_directories(out_ / "checkpoint-x");
  write_adapter(out_ / "checkpoint-best", 1);
  scan();
  EXPECT_THAT(names(), ElementsAre("run@5", "run@20", "run@100"));
  write_adapter(out_, 2);
  scan();
  EXPECT_THAT(names(), ElementsAre("run@5", "run@20", "run@100", "run"));
  EXPECT_FALSE(next_) << "nothing is pending";
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(LoraWatchTest, ScanningAgainChangesNothing) {
  add_checkpoint(5);
  scan();
  const uint64_t generation = registry_.list()[0].generation;
  scan(seconds(10));
  EXPECT_EQ(registry_.list()[0].generation, generation);
}

TEST_F(LoraWatchTest, RemovesWhatVanishedAndKeepsLeases) {
  const fs::path first = add_checkpoint(5);
  add_checkpoint(10);
  scan();
  const AdapterLease lease = registry_.lease("run@5");
  fs::remove(first / "adapter_config.json");  // a trainer deletes file by file
  scan();
  EXPECT_THAT(names(), ElementsAre("run@10"));
  EXPECT_THAT(removed_, ElementsAre("run@5"));
  EXPECT_EQ(registry_.acquire(lease).residency, AdapterRegistry::Residency::kReady);
}

TEST_F(LoraWatchTest, ReplacesWhatChanged) {
  write_adapter(out_, 1);
  scan();
  const uint64_t generation = registry_.list()[0].generation;
  write_adapter(out_, 2);
  scan();
  EXPECT_THAT(names(), ElementsAre("run"));
  EXPECT_NE(registry_.list()[0].generation, generation);
}

TEST_F(LoraWatchTest, WaitsForFilesThatAreStillWritten) {
  const fs::path source = write_adapter(folder_ / "source", 1);
  const std::string weights = read_text_file(source / "adapter_model.safetensors");
  const fs::path target = out_ / "checkpoint-5";
  fs::create_directories(target);
  fs::copy_file(source / "adapter_config.json", target / "adapter_config.json");
  for (const size_t part : {weights.size() / 100, weights.size() / 2, weights.size() - 1}) {
    std::ofstream(target / "adapter_model.safetensors", std::ios::binary) << weights.substr(0, part);
    scan();
    EXPECT_THAT(names(), IsEmpty());
    EXPECT_EQ(next_, start_ + seconds(2)) << "looked at again, since no event need come";
  }
  std::ofstream(target / "adapter_model.safetensors", std::ios::binary) << weights;
  scan(seconds(2));
  EXPECT_THAT(names(), ElementsAre("run@5"));
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(LoraWatchTest, WarnsOnceAboutWhatCannotBeServed) {
  const fs::path folder = add_checkpoint(5);
  std::ofstream(folder / "adapter_config.json") << R"({"peft_type": "IA3"})";
  scan();
  EXPECT_THAT(warnings_, IsEmpty()) << "it may still be written";
  scan(seconds(1));
  EXPECT_THAT(warnings_, IsEmpty());
  scan(seconds(2));
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_THAT(warnings_[0], HasSubstr("run@5"));
  EXPECT_THAT(warnings_[0], HasSubstr("IA3"));
  EXPECT_FALSE(next_);
  scan(seconds(100));
  EXPECT_EQ(warnings_.size(), 1u);
  write_adapter(folder, 1);  // mended
  scan(seconds(101));
  EXPECT_THAT(names(), ElementsAre("run@5"));
}

TEST_F(LoraWatchTest, KeepsTheOldAdapterWhenItsReplacementIsBad) {
  write_adapter(out_, 1);
  scan();
  std::ofstream(out_ / "adapter_model.safetensors") << "rubbish";
  scan();
  scan(seconds(2));
  EXPECT_THAT(names(), ElementsAre("run"));
  EXPECT_EQ(warnings_.size(), 1u);
}

TEST_F(LoraWatchTest, TriesAShortageAgain) {
  write_adapter(out_ / "checkpoint-5", 1, /*rank=*/16);  // max_lora_rank is 8
  scan();
  scan(seconds(2));
  EXPECT_EQ(warnings_.size(), 1u);
  ASSERT_TRUE(next_);
  scan(seconds(60));
  EXPECT_EQ(warnings_.size(), 1u);
}

TEST_F(LoraWatchTest, LeavesNamesOfOthersAlone) {
  registry_.add("run@5", write_adapter(folder_ / "other", 9), AdapterRegistry::LoadMode::kNow, false);
  const uint64_t generation = registry_.list()[0].generation;
  const fs::path checkpoint = add_checkpoint(5);
  scan();
  scan(seconds(2));
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("already been loaded")));
  fs::remove_all(checkpoint);
  scan();
  EXPECT_EQ(registry_.list()[0].generation, generation);
  EXPECT_THAT(removed_, IsEmpty());
}

/// Waits for a condition that another thread makes true.
template <typename Condition>
bool soon(Condition condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

TEST_F(LoraWatchTest, TheThreadFollowsAFolderThatComesAndGoes) {
  const LoraWatch watch(publisher_);
  std::this_thread::sleep_for(milliseconds(100));  // it sleeps by now: only events can wake it
  add_checkpoint(5);                               // makes the folder, too
  EXPECT_TRUE(soon([&] { return names() == std::vector<std::string>{"run@5"}; }));
  const fs::path copied = out_ / "checkpoint-10";
  fs::create_directories(copied);
  std::this_thread::sleep_for(milliseconds(100));
  write_adapter(copied, 2);
  EXPECT_TRUE(soon([&] { return registry_.lease("run@10") != nullptr; }));
  fs::remove_all(out_);
  EXPECT_TRUE(soon([&] { return names().empty(); }));
  add_checkpoint(15);
  EXPECT_TRUE(soon([&] { return names() == std::vector<std::string>{"run@15"}; }));
}

TEST(FolderEvents, TellsChangeTimeoutAndStop) {
  const testing::TempFolder folder;
  const fs::path place = folder / "a";
  fs::create_directories(place);
  FolderEvents events;
  events.watch({place, folder / "absent"});
  ASSERT_FALSE(events.is_polling()) << "this test needs inotify";
  EXPECT_EQ(events.wait(milliseconds(1)), FolderEvents::Wake::kTimeout);
  std::ofstream(place / "file") << "x";
  EXPECT_EQ(events.wait(seconds(10)), FolderEvents::Wake::kChanged);
  EXPECT_EQ(events.wait(milliseconds(1)), FolderEvents::Wake::kTimeout) << "one burst, one wake";
  fs::create_directories(folder / "absent");
  EXPECT_EQ(events.wait(seconds(10)), FolderEvents::Wake::kChanged);
  events.stop();
  EXPECT_EQ(events.wait(std::nullopt), FolderEvents::Wake::kStopped);
}

TEST(FolderEvents, ForgetsFoldersThatAreNotWatchedAnyMore) {
  const testing::TempFolder folder;
  const fs::path a = folder / "a", b = folder / "b";
  fs::create_directories(a);
  fs::create_directories(b);
  FolderEvents events;
  events.watch({a, b});
  events.watch({b});
  events.wait(milliseconds(1));  // the kernel tells that the watch ended
  std::ofstream(a / "file") << "x";
  EXPECT_EQ(events.wait(milliseconds(100)), FolderEvents::Wake::kTimeout);
}

std::string refusal(const std::vector<std::string>& items) {
  try {
    parse_lora_watch(items, {"base"});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(LoraWatchFlag, ReadsNamesAndFolders) {
  const auto folders = parse_lora_watch({"saves/nova/", "x=/a/b=c", "", "/p/q=r", "."}, {"base"});
  ASSERT_EQ(folders.size(), 4u);
  EXPECT_EQ(folders[0].name, "nova");
  EXPECT_EQ(folders[1].name, "x");
  EXPECT_EQ(folders[1].path, "/a/b=c");
  EXPECT_EQ(folders[2].name, "q=r");
  EXPECT_EQ(folders[3].name, fs::current_path().filename());
}

TEST(LoraWatchFlag, RefusesWhatNamesNoFolderOrATakenName) {
  EXPECT_THAT(refusal({"=x"}), HasSubstr("needs a name"));
  EXPECT_THAT(refusal({"x="}), HasSubstr("names no folder"));
  EXPECT_THAT(refusal({"base=saves"}), HasSubstr("'base' is taken"));
  EXPECT_THAT(refusal({"a/x", "b/x"}), HasSubstr("NAME=b/x"));
  EXPECT_THAT(refusal({"x=/proc/self/status"}), HasSubstr("is not a folder"));
}

}  // namespace
}  // namespace polylora
