#include "load/bench_prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "base/error.h"
#include "load/request_bodies.h"

namespace polylora {
namespace {

using Ids = std::vector<int32_t>;
using testing::HasSubstr;

const Ids& ids(const BenchPrompt& prompt) {
  return std::get<Ids>(prompt.content);
}
const std::string& text(const BenchPrompt& prompt) {
  return std::get<std::string>(prompt.content);
}

std::filesystem::path write(const std::string& name, const std::string& content) {
  const auto path = std::filesystem::path(testing::TempDir()) / name;
  std::ofstream(path) << content;
  return path;
}

RandomPromptOptions small() {
  RandomPromptOptions options;
  options.count = 20;
  options.input_len = 8;
  options.output_len = 4;
  return options;
}

TEST(RandomPrompts, AreAFunctionOfTheSeed) {
  RandomPromptOptions options = small();
  const std::vector<BenchPrompt> one = random_prompts(options, {}), again = random_prompts(options, {});
  options.seed = 1;
  const std::vector<BenchPrompt> other = random_prompts(options, {});
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(ids(one[i]), ids(again[i]));
    EXPECT_NE(ids(one[i]), ids(other[i]));
    EXPECT_EQ(ids(one[i]).size(), 8u);
    EXPECT_EQ(one[i].max_tokens, 4);
  }
  EXPECT_NE(ids(one[0]), ids(one[1]));
}

TEST(RandomPrompts, VaryLengthsWithinTheRange) {
  RandomPromptOptions options = small();
  options.count = 400;
  options.input_range = 0.25;
  options.output_range = 0.5;
  std::set<int> inputs, outputs;
  for (const BenchPrompt& prompt : random_prompts(options, {})) {
    inputs.insert(prompt.tokens);
    outputs.insert(prompt.max_tokens);
  }
  EXPECT_THAT(inputs, testing::ElementsAre(6, 7, 8, 9, 10));
  EXPECT_THAT(outputs, testing::ElementsAre(2, 3, 4, 5, 6));
}

TEST(RandomPrompts, ShareThePrefixAndStayInTheVocabulary) {
  RandomPromptOptions options = small();
  options.prefix_len = 3;
  TokenSource source;
  source.first_id = 10;
  source.end_id = 20;
  const std::vector<BenchPrompt> prompts = random_prompts(options, source);
  const Ids prefix(ids(prompts[0]).begin(), ids(prompts[0]).begin() + 3);
  std::set<int32_t> seen;
  for (const BenchPrompt& prompt : prompts) {
    EXPECT_EQ(prompt.tokens, 11);
    EXPECT_EQ(Ids(ids(prompt).begin(), ids(prompt).begin() + 3), prefix);
    seen.insert(ids(prompt).begin(), ids(prompt).end());
  }
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_EQ(*seen.begin(), 10);
  source.end_id = 10;
  EXPECT_THROW(random_prompts(options, source), Error);
}

TEST(RandomPrompts, AreWordsWhereTextIsNeeded) {
  TokenSource source;
  source.as_text = true;
  const std::string words = text(random_prompts(small(), source)[0]);
  EXPECT_EQ(std::count(words.begin(), words.end(), ' '), 7);
}

TEST(PrefixRepetition, GivesEveryPrefixTheSameNumberOfPrompts) {
  PrefixRepetitionOptions options;
  options.count = 12;
  options.num_prefixes = 3;
  options.prefix_len = 5;
  options.suffix_len = 2;
  std::map<Ids, int> prefixes;
  std::set<Ids> all;
  for (const BenchPrompt& prompt : prefix_repetition_prompts(options, {})) {
    EXPECT_EQ(prompt.tokens, 7);
    ++prefixes[Ids(ids(prompt).begin(), ids(prompt).begin() + 5)];
    all.insert(ids(prompt));
  }
  EXPECT_EQ(prefixes.size(), 3u);
  for (const auto& [prefix, count] : prefixes) EXPECT_EQ(count, 4);
  EXPECT_EQ(all.size(), 12u);
  options.count = 2;
  EXPECT_THROW(prefix_repetition_prompts(options, {}), Error);
}

TEST(CustomPrompts, ReadsLinesAndRepeatsThemWhenThereAreTooFew) {
  PromptFileOptions options;
  options.path =
      write("custom.jsonl", "{\"prompt\": \"a\", \"output_tokens\": 3}\n\n{\"prompt\": \"b\"}\r\n");
  options.count = 5;
  options.output_len = 7;
  options.shuffle = false;
  const std::vector<BenchPrompt> prompts = custom_prompts(options);
  ASSERT_EQ(prompts.size(), 5u);
  EXPECT_EQ(text(prompts[0]), "a");
  EXPECT_EQ(text(prompts[1]), "b");
  EXPECT_EQ(prompts[0].max_tokens, 7);
  options.oversample = false;
  EXPECT_EQ(custom_prompts(options).size(), 2u);
  options.count = 1;
  EXPECT_EQ(custom_prompts(options).size(), 1u);
}

TEST(CustomPrompts, NameTheLineThatIsWrong) {
  PromptFileOptions options;
  const auto failure = [&options] {
    try {
      custom_prompts(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no failure");
  };
  options.path = write("bad.jsonl", "{\"prompt\": \"a\", \"output_tokens\": 3}\n{\"text\": \"b\"}\n");
  EXPECT_THAT(failure(), HasSubstr("bad.jsonl:2: expected a JSON object"));
  options.path = write("bad.jsonl", "{\"prompt\": \"a\"}\n");  // and no length given
  EXPECT_THAT(failure(), HasSubstr("bad.jsonl:1: \"output_tokens\" is missing"));
  options.path = write("bad.jsonl", "\n");
  EXPECT_THAT(failure(), HasSubstr("no usable prompt"));
}

TEST(ShareGptPrompts, TakesTheFirstTwoTurnsOfUsableConversations) {
  const std::string question(40, 'q'), answer(100, 'a'), huge(5000, 'h');
  const auto conversation = [](const std::string& first, const std::string& second) {
    return R"({"conversations":[{"from":"human","value":")" + first + R"("},{"from":"gpt","value":")" +
           second + R"("}]})";
  };
  PromptFileOptions options;
  options.path = write("sharegpt.json", "[" + conversation(question, answer) + "," +
                                            conversation("short", answer) + "," + conversation(huge, answer) +
                                            R"(,{"conversations":[{"value":"x"}]},7])");
  options.oversample = false;
  const std::vector<BenchPrompt> prompts = sharegpt_prompts(options, nullptr);
  ASSERT_EQ(prompts.size(), 1u);
  EXPECT_EQ(text(prompts[0]), question);
  EXPECT_EQ(prompts[0].tokens, 10);
  EXPECT_EQ(prompts[0].max_tokens, 25);
  options.output_len = 9;
  EXPECT_EQ(sharegpt_prompts(options, nullptr)[0].max_tokens, 9);
}

TEST(CompletionBody, IsWhatTheApiTakes) {
  BenchPrompt prompt;
  prompt.content = Ids{1, 2};
  prompt.max_tokens = 3;
  BodyOptions options;
  options.ignore_eos = true;
  options.extra["temperature"] = 0;
  EXPECT_EQ(
      completion_body(options, "m", prompt),
      R"({"model":"m","prompt":[1,2],"max_tokens":3,"stream":true,"stream_options":{"include_usage":true},)"
      R"("ignore_eos":true,"temperature":0})");
  options = {};
  options.chat = true;
  options.extra["stream"] = false;
  prompt.content = std::string("hi");
  EXPECT_EQ(
      completion_body(options, "m", prompt),
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":3,"stream":false,)"
      R"("stream_options":{"include_usage":true}})");
}

}  // namespace
}  // namespace polylora
