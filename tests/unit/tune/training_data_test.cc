#include "tune/data/training_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class LoadTrainingData : public ::testing::Test {
 protected:
  LoadTrainingData() {
    folder_.write("dataset_info.json", R"({
      "ten": {"file_name": "ten.jsonl"}, "three": {"file_name": "three.jsonl"}, "none": {"file_name": "none.json"},
      "pairs": {"file_name": "pairs.json", "ranking": true,
                "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
      "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "text"}}})");
    folder_.write("ten.jsonl", records("t", 10));
    folder_.write("three.jsonl", records("r", 3));
    folder_.write("none.json", R"([{"instruction": "x", "output": null}])");
    folder_.write("pairs.json", R"([{"q": "x", "good": "yes", "bad": "no"}])");
    folder_.write("texts.jsonl", "{\"text\": \"one two\"}\n{\"text\": \"three\"}\n");
    config_.dataset_dir = folder_.path();
    config_.template_name = "default";
  }

  static std::string records(const std::string& name, int count) {
    std::string lines;
    for (int i = 0; i < count; ++i)
      lines += fmt::format("{{\"instruction\": \"{0}{1}\", \"output\": \"{0}{1}\"}}\n", name, i);
    return lines;
  }

  TrainingData load() const { return load_training_data(config_, *model_.tokenizer, model_.text); }
  std::string refusal() const {
    return error_of([&] { load(); });
  }
  std::string text(const Example& example) const {
    return model_.tokenizer->decode(example.input_ids, false);
  }
  /// What the examples were made of, "t0" and so on.
  std::vector<std::string> names(const std::vector<Example>& examples) const {
    std::vector<std::string> result;
    for (const Example& example : examples) {
      const std::string all = text(example);
      result.push_back(all.substr(7, all.find("</s>") - 7));  // after "Human: "
    }
    return result;
  }

  DataFolder folder_;
  FormatTokenizer model_;
  TrainConfig config_;
};

TEST_F(LoadTrainingData, ConcatenatesWithMaxSamplesOfEach) {
  config_.dataset = {"three", "ten"};
  config_.max_samples = 2;
  const TrainingData data = load();
  EXPECT_THAT(names(data.train), ElementsAre("r0", "r1", "t0", "t1"));
  EXPECT_EQ(text(data.train[0]), "Human: r0</s>\nAssistant:r0</s>\n");
  EXPECT_THAT(
      data.report,
      ElementsAre("dataset 'three': 3 records, 2 used of the 2 taken (max_samples, num_samples or split)",
                  "dataset 'ten': 10 records, 2 used of the 2 taken (max_samples, num_samples or split)"));
  EXPECT_THAT(data.eval, IsEmpty());
}

TEST_F(LoadTrainingData, Interleaves) {
  config_.dataset = {"three", "ten"};
  config_.mix_strategy = "interleave_under";
  EXPECT_THAT(names(load().train), ElementsAre("r0", "t0", "r1", "t1", "r2", "t2"));
}

TEST_F(LoadTrainingData, HoldsOutAPart) {
  config_.dataset = {"ten"};
  config_.val_size = 0.3;
  const TrainingData data = load();
  ASSERT_EQ(data.eval.size(), 1U);
  EXPECT_EQ(data.eval[0].name, "");
  std::vector<std::string> all = names(data.train);
  EXPECT_EQ(all.size(), 7U);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  for (const std::string& name : names(data.eval[0].examples)) all.push_back(name);
  std::sort(all.begin(), all.end());
  EXPECT_THAT(all, ElementsAre("t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"));
  EXPECT_THAT(data.report, Contains("val_size: 3 records are held out for evaluation, 7 are trained on"));
  EXPECT_EQ(names(load().train), names(data.train));
}

TEST_F(LoadTrainingData, EvaluatesOnDatasetsTogetherOrEach) {
  config_.dataset = {"ten"};
  config_.eval_dataset = {"three", "ten"};
  TrainingData data = load();
  ASSERT_EQ(data.eval.size(), 1U);
  EXPECT_EQ(data.eval[0].examples.size(), 13U);
  config_.eval_on_each_dataset = true;
  data = load();
  ASSERT_EQ(data.eval.size(), 2U);
  EXPECT_EQ(data.eval[0].name, "three");
  EXPECT_EQ(data.eval[1].examples.size(), 10U);
}

TEST_F(LoadTrainingData, MakesPairs) {
  config_.stage = Stage::kDpo;
  config_.dataset = {"pairs"};
  const TrainingData data = load();
  EXPECT_THAT(data.train, IsEmpty());
  ASSERT_EQ(data.train_pairs.size(), 1U);
  EXPECT_EQ(text(data.train_pairs[0].chosen), "Human: x</s>\nAssistant:yes</s>\n");
  EXPECT_EQ(text(data.train_pairs[0].rejected), "Human: x</s>\nAssistant:no</s>\n");
}

TEST_F(LoadTrainingData, CutsDocumentsIntoBlocks) {
  config_.stage = Stage::kPt;
  config_.template_name.clear();
  config_.dataset = {"texts"};
  TrainingData data = load();
  ASSERT_EQ(data.train.size(), 2U);
  EXPECT_EQ(text(data.train[0]), "one two</s>");
  EXPECT_EQ(data.train[0].labels, data.train[0].input_ids);
  std::vector<int32_t> all = data.train[0].input_ids;
  all.insert(all.end(), data.train[1].input_ids.begin(), data.train[1].input_ids.end());

  config_.packing = true;
  config_.cutoff_len = 3;
  data = load();
  ASSERT_EQ(data.train.size(), all.size() / 3);
  for (size_t i = 0; i < data.train.size(); ++i) {
    EXPECT_THAT(data.train[i].input_ids, ElementsAre(all[3 * i], all[3 * i + 1], all[3 * i + 2]));
    EXPECT_EQ(data.train[i].labels, data.train[i].input_ids);
  }

  model_.text.add_bos_token = true;
  EXPECT_EQ(load().train.at(1).input_ids[0], model_.tokenizer->token_to_id("<s>"));
  config_.packing = false;
  config_.cutoff_len = 100;
  EXPECT_EQ(text(load().train[1]), "<s>three</s>");
}

TEST_F(LoadTrainingData, SaysWhenDocumentsAreShorterThanABlock) {
  config_.stage = Stage::kPt;
  config_.packing = true;
  config_.dataset = {"texts"};
  EXPECT_THAT(refusal(),
              AllOf(StartsWith("dataset texts: no usable example"), HasSubstr("lower cutoff_len")));
}

TEST_F(LoadTrainingData, PacksAndTellsWhatIsTooLong) {
  folder_.write("three.jsonl",
                records("r", 3) + R"({"instruction": "x", "output": "a b c d e f g h i j k l m n"})");
  config_.dataset = {"three"};
  const size_t one = load().train[0].input_ids.size();
  config_.packing = true;
  config_.cutoff_len = static_cast<int>(2 * one + 1);
  const TrainingData data = load();
  EXPECT_THAT(names(data.train), Contains("r2"));
  EXPECT_THAT(data.report, Contains(HasSubstr("rows of at most")));
  config_.cutoff_len = static_cast<int>(one);  // all are cut to one less
  EXPECT_THAT(names(load().train).size(), 4U);
}

TEST_F(LoadTrainingData, SaysWhatIsWrong) {
  EXPECT_THAT(refusal(), HasSubstr("no dataset is named"));
  config_.dataset = {"none"};
  EXPECT_EQ(refusal(),
            "dataset none: no usable example: see what was dropped, and check formatting and tags (dataset "
            "'none': 1 "
            "records, 0 used; 1 dropped: 1 no answer)");
  config_.dataset = {"tne"};
  EXPECT_THAT(refusal(), HasSubstr("did you mean"));
  config_.dataset = {"pairs"};
  EXPECT_THAT(refusal(), HasSubstr("only stage dpo"));
  config_.dataset = {"ten"};
  config_.template_name = "chatmll";
  EXPECT_THAT(refusal(), HasSubstr("did you mean chatml?"));
  config_.template_name.clear();
  EXPECT_THAT(load().report.front(), HasSubstr("messages are used as they are"));
}

TEST_F(LoadTrainingData, NamesTheRecordThatAChatTemplateRefuses) {
  folder_.write("ten.jsonl", records("t", 100) + R"({"instruction": "x", "output": "y", "system": "s"})");
  folder_.write("dataset_info.json", R"({"ten": {"file_name": "ten.jsonl",
      "columns": {"prompt": "instruction", "response": "output", "system": "system"}}})");
  config_.dataset = {"ten"};
  config_.template_name.clear();
  model_.text.chat_template =
      "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif "
      "%}"
      "{{ m['content'] }}{% endfor %}";
  EXPECT_THAT(refusal(), HasSubstr("ten.jsonl: row 101: no system here"));
}

TEST_F(LoadTrainingData, IsTheSameOnAnyNumberOfThreads) {
  folder_.write("ten.jsonl", records("t", 500));
  config_.dataset = {"ten"};
  config_.threads = 1;
  const TrainingData one = load();
  config_.threads = 7;
  const TrainingData seven = load();
  ASSERT_EQ(one.train.size(), 500U);
  for (size_t i = 0; i < 500; ++i) EXPECT_EQ(one.train[i].input_ids, seven.train[i].input_ids);
}

TEST_F(LoadTrainingData, ReportsProgressOnTheCallersThread) {
  folder_.write("ten.jsonl", records("t", 500));
  config_.dataset = {"ten"};
  config_.threads = 4;
  std::vector<double> fractions;
  const auto caller = std::this_thread::get_id();
  load_training_data(config_, *model_.tokenizer, model_.text, [&](std::string_view, double fraction) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    fractions.push_back(fraction);
  });
  ASSERT_FALSE(fractions.empty());
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_EQ(fractions.back(), 1.0);
}

TEST(ModelTextOfAssets, TakesBosFromTheTokenizerConfig) {
  TextAssets assets;
  assets.bos_token = "<s>";
  assets.eos_token = "</s>";
  assets.chat_template = "x";
  EXPECT_FALSE(model_text(assets).add_bos_token);
  assets.tokenizer_config_json = R"({"add_bos_token": true})";
  EXPECT_TRUE(model_text(assets).add_bos_token);
  EXPECT_EQ(model_text(assets).eos_token, "</s>");
  EXPECT_EQ(model_text(assets).chat_template, "x");
}

}  // namespace
}  // namespace polylora
