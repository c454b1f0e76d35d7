#include "tune/data/dataset_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DatasetInfoFile : public ::testing::Test {
 protected:
  DatasetInfoFile() { folder_.write("a.json", "[]"); }

  DatasetInfo read(const std::string& entry) const {
    folder_.write("dataset_info.json", "{\"mine\": " + entry + "}");
    return read_dataset_info(folder_.path(), {"mine"}).at(0);
  }
  std::string refusal(const std::string& entry) const {
    return error_of([&] { read(entry); });
  }

  DataFolder folder_;
};

TEST_F(DatasetInfoFile, HasDefaults) {
  const DatasetInfo info = read(R"({"file_name": "a.json"})");
  EXPECT_EQ(info.formatting, DatasetFormatting::kAlpaca);
  EXPECT_FALSE(info.ranking);
  EXPECT_EQ(info.columns.prompt, "instruction");
  EXPECT_EQ(info.columns.query, "input");
  EXPECT_EQ(info.columns.response, "output");
  EXPECT_EQ(info.columns.history, "");
  EXPECT_THAT(info.files, ElementsAre(folder_.path() / "a.json"));
  EXPECT_THAT(info.notices, IsEmpty());
}

TEST_F(DatasetInfoFile, ColumnsAndTagsReplaceAllDefaults) {
  const DatasetInfo info = read(R"({"file_name": "a.json", "formatting": "sharegpt", "ranking": true,
      "split": "train[:3]", "num_samples": 7, "subset": "x",
      "columns": {"messages": "m", "chosen": "c", "rejected": "r"},
      "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "bot"}})");
  EXPECT_EQ(info.formatting, DatasetFormatting::kSharegpt);
  EXPECT_TRUE(info.ranking);
  EXPECT_EQ(info.columns.messages, "m");
  EXPECT_EQ(info.columns.prompt, "");
  EXPECT_EQ(info.tags.assistant_tag, "bot");
  EXPECT_EQ(info.tags.system_tag, "");
  EXPECT_EQ(info.num_samples, 7);
  EXPECT_EQ(info.split, "train[:3]");
  EXPECT_THAT(info.notices, IsEmpty());
}

TEST_F(DatasetInfoFile, TellsWhatNothingReads) {
  EXPECT_THAT(
      read(R"({"file_name": "a.json", "rankign": true, "columns": {"prompt": "p", "querry": "q"}})").notices,
      ElementsAre(AllOf(HasSubstr("columns: nothing reads 'querry'"), HasSubstr("did you mean query")),
                  AllOf(HasSubstr("nothing reads 'rankign'"), HasSubstr("did you mean ranking"))));
}

TEST_F(DatasetInfoFile, RefusesWhatItCannotLoad) {
  EXPECT_EQ(refusal(R"({"hf_hub_url": "who/what"})"),
            "dataset 'mine' in dataset_info.json: 'who/what' is on a hub; download it and give file_name "
            "instead of "
            "hf_hub_url");
  EXPECT_EQ(read(R"({"hf_hub_url": "who/what", "file_name": "a.json"})").files.size(), 1U);
  EXPECT_THAT(refusal(R"({"script_url": "x"})"), HasSubstr("a Python script"));
  EXPECT_THAT(refusal(R"({"file_name": "b.json"})"),
              AllOf(HasSubstr("its file"), HasSubstr("does not exist")));
  EXPECT_THAT(refusal("{}"), HasSubstr("file_name is missing"));
  EXPECT_THAT(refusal("[]"), HasSubstr("not an object"));
  EXPECT_THAT(refusal(R"({"file_name": 3})"), HasSubstr("'file_name' must be a string"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "formatting": "openai"})"),
              HasSubstr("use 'sharegpt' with tags"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "formatting": "x"})"), HasSubstr("use alpaca or sharegpt"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "ranking": true})"), HasSubstr("columns.chosen"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "ranking": "yes"})"), HasSubstr("must be true or false"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "num_samples": 0})"), HasSubstr("must be a whole number"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "tags": {"role_tag": "r"}})"), HasSubstr("tags must give"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "folder": "x"})"), HasSubstr("part of file_name"));
  EXPECT_THAT(refusal(R"({"file_name": "a.json", "formatting": "sharegpt", "columns": {}})"),
              HasSubstr("columns.messages"));
  folder_.write("a.parquet", "");
  EXPECT_THAT(refusal(R"({"file_name": "a.parquet"})"), HasSubstr("convert it to .jsonl"));
}

TEST_F(DatasetInfoFile, ReadsWholeFoldersInOrder) {
  std::filesystem::create_directory(folder_.path() / "many");
  EXPECT_THAT(refusal(R"({"file_name": "many"})"), HasSubstr("is empty"));
  folder_.write("many/b.jsonl", "");
  folder_.write("many/a.jsonl", "");
  EXPECT_THAT(read(R"({"file_name": "many"})").files,
              ElementsAre(folder_.path() / "many" / "a.jsonl", folder_.path() / "many" / "b.jsonl"));
}

TEST_F(DatasetInfoFile, UnknownNamesGetHelp) {
  folder_.write("dataset_info.json", R"({"alpaca_en_demo": {}, "identity": {}})");
  EXPECT_THAT(error_of([&] { read_dataset_info(folder_.path(), {"alpaca_en"}); }),
              AllOf(HasSubstr("dataset 'alpaca_en' is not in"), HasSubstr("did you mean alpaca_en_demo?")));
  EXPECT_THAT(error_of([&] { read_dataset_info(folder_.path(), {"some/data.jsonl"}); }),
              AllOf(HasSubstr(R"({"my_data": {"file_name": "data.jsonl"}})"), HasSubstr("dataset: my_data")));
}

TEST(DatasetInfo, AbsentFilesAreExplained) {
  const DataFolder empty;
  EXPECT_THAT(error_of([&] { read_dataset_info(empty.path(), {"x"}); }),
              AllOf(HasSubstr("dataset_info.json does not exist"), HasSubstr("set dataset_dir")));
  EXPECT_THAT(error_of([&] { read_dataset_info(empty.path(), {"x.json"}); }),
              HasSubstr("to train on that file"));
}

}  // namespace
}  // namespace polylora
