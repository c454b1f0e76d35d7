#include "tune/data/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

DatasetRecords alpaca(std::string_view text, Stage stage = Stage::kSft) {
  DatasetInfo info;
  info.name = "test";
  info.columns.history = "history";
  info.columns.system = "system";
  return parse_records(text, "f.json", info, stage);
}

DatasetInfo sharegpt_info() {
  DatasetInfo info;
  info.name = "test";
  info.formatting = DatasetFormatting::kSharegpt;
  return info;
}

DatasetRecords sharegpt(std::string_view text, Stage stage = Stage::kSft) {
  return parse_records(text, "f.json", sharegpt_info(), stage);
}

/// "u:…", "a:…" or "o:…" of each message of the prompt.
std::vector<std::string> prompt_of(const Conversation& conversation) {
  std::vector<std::string> result;
  for (const Message& m : conversation.prompt)
    result.push_back(std::string(m.role == Role::kUser        ? "u:"
                                 : m.role == Role::kAssistant ? "a:"
                                                              : "o:") +
                     m.content);
  return result;
}

TEST(AlpacaRecords, JoinInstructionAndInput) {
  const DatasetRecords records = alpaca(R"([
    {"instruction": "I", "input": "X", "output": "O", "system": "S", "history": [["q", "a"]]},
    {"instruction": "", "input": "only input", "output": ""},
    {"instruction": "no input", "output": "O", "system": null, "history": null}])");
  ASSERT_EQ(records.conversations.size(), 3U);
  EXPECT_THAT(prompt_of(records.conversations[0]), ElementsAre("u:q", "a:a", "u:I\nX"));
  EXPECT_THAT(records.conversations[0].answers, ElementsAre("O"));
  EXPECT_EQ(records.conversations[0].system, "S");
  EXPECT_THAT(prompt_of(records.conversations[1]), ElementsAre("u:only input"));
  EXPECT_THAT(records.conversations[1].answers, ElementsAre(""));
  EXPECT_THAT(prompt_of(records.conversations[2]), ElementsAre("u:no input"));
  EXPECT_EQ(records.conversations[2].row, 3);
  EXPECT_EQ(records.taken, 3);
}

TEST(AlpacaRecords, WithoutAnAnswerAreDropped) {
  const DatasetRecords records =
      alpaca(R"([{"instruction": "I", "output": null}, {"instruction": "I", "output": "O"}])");
  EXPECT_EQ(records.conversations.size(), 1U);
  EXPECT_THAT(records.dropped, ElementsAre(Pair("no answer", 1)));
}

TEST(AlpacaRecords, BadOnesNameFileRowAndColumn) {
  const auto message = [](const std::string& record) {
    return error_of([&] { alpaca(R"([{"instruction": "I", "output": "O"}, )" + record + "]"); });
  };
  EXPECT_EQ(message(R"({"instruction": "I"})"), "f.json: row 2: column 'output' is missing");
  EXPECT_EQ(message(R"({"output": "O"})"), "f.json: row 2: column 'instruction' is missing");
  EXPECT_EQ(message(R"({"instruction": 5, "output": "O"})"),
            "f.json: row 2: column 'instruction' is not a string");
  EXPECT_EQ(message(R"({"instruction": "I", "output": ["O"]})"),
            "f.json: row 2: column 'output' is not a string");
  EXPECT_EQ(message(R"({"instruction": "I", "output": "O", "history": "h"})"),
            "f.json: row 2: column 'history' is not a list");
  EXPECT_EQ(message(R"({"instruction": "I", "output": "O", "history": [["a", "b"], ["c"]]})"),
            "f.json: row 2: column 'history': entry 2 is not a [question, answer] pair of strings");
  EXPECT_EQ(message("[]"), "f.json: row 2: not a JSON object");
  EXPECT_EQ(message("{"), "f.json: not valid JSON (at byte 40)");
}

TEST(AlpacaRecords, OfOtherStages) {
  const DatasetRecords documents = alpaca(R"([{"instruction": "A text."}])", Stage::kPt);
  EXPECT_THAT(prompt_of(documents.conversations.at(0)), ElementsAre("u:A text."));
  EXPECT_THAT(documents.conversations[0].answers, IsEmpty());
  DatasetInfo ranked;
  ranked.name = "test";
  ranked.ranking = true;
  ranked.columns.chosen = "good";
  ranked.columns.rejected = "bad";
  const DatasetRecords pairs = parse_records(R"([{"instruction": "I", "good": "G", "bad": "B"},
      {"instruction": "I", "good": "G", "bad": null}])",
                                             "f.json", ranked, Stage::kDpo);
  EXPECT_THAT(pairs.conversations.at(0).answers, ElementsAre("G", "B"));
  EXPECT_THAT(pairs.dropped, ElementsAre(Pair("no answer", 1)));
  EXPECT_EQ(
      error_of([&] { parse_records(R"([{"instruction": "I", "good": "G"}])", "f", ranked, Stage::kDpo); }),
      "f: row 1: column 'bad' is missing");
  EXPECT_THAT(error_of([&] { parse_records("[]", "f", ranked, Stage::kSft); }), HasSubstr("only stage dpo"));
  EXPECT_THAT(error_of([&] { alpaca("[]", Stage::kDpo); }), HasSubstr("\"ranking\": true"));
}

TEST(SharegptRecords, AreConversations) {
  const DatasetRecords records = sharegpt(R"([{"conversations": [
      {"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
      {"from": "observation", "value": "seen"}, {"from": "gpt", "value": "end"}]}])");
  const Conversation& conversation = records.conversations.at(0);
  EXPECT_EQ(conversation.system, "S");
  EXPECT_THAT(prompt_of(conversation), ElementsAre("u:q", "a:a", "o:seen"));
  EXPECT_THAT(conversation.answers, ElementsAre("end"));
}

TEST(SharegptRecords, WithWrongOrderOrCountAreDroppedAndCounted) {
  const DatasetRecords records = sharegpt(R"([
      {"conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]},
      {"conversations": [{"from": "gpt", "value": "q"}]},
      {"conversations": [{"from": "human", "value": "q"}, {"from": "someone", "value": "q"}]},
      {"conversations": [{"from": "human", "value": "q"}]},
      {"conversations": [{"from": "system", "value": "q"}]},
      {"conversations": []},
      {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])");
  EXPECT_EQ(records.conversations.size(), 1U);
  EXPECT_THAT(records.dropped, UnorderedElementsAre(Pair("roles do not alternate", 3), Pair("no messages", 2),
                                                    Pair("the last message has the wrong role", 1)));
}

TEST(SharegptRecords, BadOnesNameTheMessage) {
  const auto message = [](const std::string& messages) {
    return error_of([&] { sharegpt(R"([{"conversations": )" + messages + "}]"); });
  };
  EXPECT_EQ(message(R"("text")"), "f.json: row 1: column 'conversations' is not a list");
  EXPECT_EQ(message(R"(["text"])"), "f.json: row 1: column 'conversations': message 1 is not an object");
  EXPECT_EQ(message(R"([{"from": "human", "value": "q"}, {"from": "gpt"}])"),
            "f.json: row 1: column 'conversations': message 2: 'value' is missing");
  EXPECT_EQ(message(R"([{"role": "human", "value": "q"}])"),
            "f.json: row 1: column 'conversations': message 1: 'from' is missing");
  EXPECT_THAT(message(R"([{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}])"),
              HasSubstr("message 2 is a tool call ('function_call'), which is not implemented"));
  EXPECT_EQ(error_of([] { sharegpt(R"([{"messages": []}])"); }),
            "f.json: row 1: column 'conversations' is missing");
}

TEST(SharegptRecords, RankTwoMessages) {
  DatasetInfo info = sharegpt_info();
  info.ranking = true;
  info.columns.chosen = "chosen";
  info.columns.rejected = "rejected";
  const std::string asked = R"({"conversations": [{"from": "human", "value": "q"}], )";
  const auto parse = [&](const std::string& rest) {
    return parse_records("[" + asked + rest + "}]", "f", info, Stage::kDpo);
  };
  EXPECT_THAT(parse(R"("chosen": {"from": "gpt", "value": "G"}, "rejected": {"from": "gpt", "value": "B"})")
                  .conversations.at(0)
                  .answers,
              ElementsAre("G", "B"));
  EXPECT_EQ(error_of([&] { parse(R"("chosen": "G", "rejected": "B")"); }),
            "f: row 1: column 'chosen' is not a message object");
  EXPECT_EQ(error_of([&] { parse(R"("chosen": {"from": "human", "value": "G"})"); }),
            "f: row 1: column 'chosen': 'from' is not 'gpt'");
}

TEST(Records, UnsupportedColumnsAreRefusedUnlessEmpty) {
  DatasetInfo info;
  info.name = "test";
  info.columns.images = "images";
  info.columns.kto_tag = "label";
  const auto parse = [&](const std::string& member) {
    return parse_records(R"([{"instruction": "I", "output": "O", )" + member + "}]", "f", info, Stage::kSft);
  };
  EXPECT_EQ(parse(R"("images": [])").conversations.size(), 1U);
  EXPECT_EQ(parse(R"("images": null)").conversations.size(), 1U);
  EXPECT_EQ(parse(R"("images": "")").conversations.size(), 1U);
  EXPECT_THAT(error_of([&] { parse(R"("images": ["a.png"])"); }),
              HasSubstr("f: row 1: column 'images' is not empty"));
  EXPECT_THAT(error_of([&] { parse(R"("label": true)"); }), HasSubstr("stage kto"));
}

TEST(Records, AreReadFromLines) {
  const DatasetRecords records = alpaca(
      "\xEF\xBB\xBF{\"instruction\": \"1\", \"output\": \"a\"}\r\n\n"
      "{\"instruction\": \"2\", \"output\": \"b\"}");
  ASSERT_EQ(records.conversations.size(), 2U);
  EXPECT_THAT(prompt_of(records.conversations[1]), ElementsAre("u:2"));
  EXPECT_EQ(records.conversations[1].row, 3);
  EXPECT_EQ(error_of([] { alpaca("{\"instruction\": \"1\", \"output\": \"a\"}\n{\"instr"); }),
            "f.json: row 2: not valid JSON (at byte 8)");
  EXPECT_EQ(error_of([] { alpaca(" \n"); }), "f.json: the file is empty");
}

TEST(Records, ColumnsThatNoRecordHasAreTypingErrors) {
  DatasetInfo info;
  info.name = "test";
  info.columns_given = true;
  info.columns.system = "sytem";
  EXPECT_EQ(
      error_of([&] {
        parse_records(R"([{"instruction": "", "input": "", "output": "", "system": ""}])", "f", info,
                      Stage::kSft);
      }),
      "dataset 'test': no record has the column 'sytem' that dataset_info.json names; did you mean system?");
}

class RecordFiles : public ::testing::Test {
 protected:
  RecordFiles() {
    std::string lines;
    for (int i = 0; i < 20; ++i) lines += fmt::format("{{\"instruction\": \"{}\", \"output\": \"o\"}}\n", i);
    folder_.write("a.jsonl", lines);
    info_.name = "test";
    info_.files = {folder_.path() / "a.jsonl"};
  }

  std::vector<std::string> read(int64_t max_samples = 0, int64_t seed = 42) const {
    std::vector<std::string> result;
    for (const Conversation& c : read_records(info_, Stage::kSft, max_samples, seed).conversations)
      result.push_back(c.prompt[0].content);
    return result;
  }

  DataFolder folder_;
  DatasetInfo info_;
};

TEST_F(RecordFiles, MaxSamplesTakesTheFirst) {
  EXPECT_THAT(read(3), ElementsAre("0", "1", "2"));
  EXPECT_EQ(read(100).size(), 20U);
  const DatasetRecords records = read_records(info_, Stage::kSft, 3, 42);
  EXPECT_EQ(records.in_files, 20);
  EXPECT_EQ(records.taken, 3);
}

TEST_F(RecordFiles, SplitsAreSlices) {
  const auto split = [&](const char* name) {
    info_.split = name;
    return read();
  };
  EXPECT_THAT(split("train[2:4]"), ElementsAre("2", "3"));
  EXPECT_THAT(split("train[:10%]"), ElementsAre("0", "1"));
  EXPECT_THAT(split("train[-1:]"), ElementsAre("19"));
  EXPECT_THAT(split("train[5:2]"), IsEmpty());
  EXPECT_THAT(error_of([&] { split("test"); }), HasSubstr("split 'test' does not exist"));
  EXPECT_THAT(error_of([&] { split("train[a:]"); }), HasSubstr("no number"));
}

TEST_F(RecordFiles, NumSamplesDrawsBySeed) {
  info_.num_samples = 5;
  const std::vector<std::string> drawn = read(0, 1);
  EXPECT_EQ(drawn, read(0, 1));
  EXPECT_NE(drawn, read(0, 2));
  EXPECT_EQ(std::set<std::string>(drawn.begin(), drawn.end()).size(), 5U);
  info_.num_samples = 50;
  const std::vector<std::string> many = read();
  EXPECT_EQ(many.size(), 50U);
  EXPECT_EQ(std::set<std::string>(many.begin(), many.end()).size(), 20U);
}

TEST_F(RecordFiles, TextFilesAreALineEach) {
  folder_.write("t.txt", "first line\n\n {\"not\": \"json\"\n");
  info_.files = {folder_.path() / "t.txt"};
  info_.columns.prompt = "text";
  const DatasetRecords records = read_records(info_, Stage::kPt, 0, 42);
  ASSERT_EQ(records.conversations.size(), 2U);
  EXPECT_EQ(records.conversations[1].prompt[0].content, " {\"not\": \"json\"");
}

}  // namespace
}  // namespace polylora
