#include "tune/data/turn_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// The turns as texts: prompt, answer, prompt, answer, …
std::vector<std::string> texts(const Tokenizer& tokenizer, const std::vector<Turn>& turns) {
  std::vector<std::string> result;
  for (const Turn& turn : turns) {
    result.push_back(tokenizer.decode(turn.prompt, false));
    result.push_back(tokenizer.decode(turn.answer, false));
  }
  return result;
}

const std::string kAsk1 = "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n";
const std::string kAsk2 = "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n";
const std::string kNoThought = "<think>\n\n</think>\n\n";
const std::string kEnd = "<|im_end|>\n";

class Thinking : public ::testing::Test {
 protected:
  std::unique_ptr<TurnEncoder> encoder(bool enable_thinking) const {
    return make_format_encoder(find_chat_format("qwen3"), *model_.tokenizer, model_.text, std::nullopt,
                               enable_thinking);
  }
  std::vector<std::string> turns(bool enable_thinking, bool discard, const std::vector<Message>& m) const {
    return texts(*model_.tokenizer, encoder(enable_thinking)->encode_turns(m, "", discard));
  }

  const FormatTokenizer model_;
  const std::string thought1_ = "<think>\none\n</think>\n\n", thought2_ = "<think>\ntwo\n</think>\n\n";
  const std::vector<Message> thoughts_ = {{Role::kUser, "U1"},
                                          {Role::kAssistant, thought1_ + "A1"},
                                          {Role::kUser, "U2"},
                                          {Role::kAssistant, thought2_ + "A2"}};
  const std::vector<Message> plain_ = {
      {Role::kUser, "U1"}, {Role::kAssistant, "A1"}, {Role::kUser, "U2"}, {Role::kAssistant, "A2"}};
};

TEST_F(Thinking, KeepsThoughtsAndLearnsEmptyOnes) {
  EXPECT_THAT(turns(true, false, thoughts_),
              ElementsAre(kAsk1, thought1_ + "A1" + kEnd, kAsk2, thought2_ + "A2" + kEnd));
  EXPECT_THAT(turns(true, false, plain_),
              ElementsAre(kAsk1, kNoThought + "A1" + kEnd, kAsk2, kNoThought + "A2" + kEnd));
}

TEST_F(Thinking, TurnedOffMovesEmptyThoughtsIntoPrompts) {
  EXPECT_THAT(turns(false, false, thoughts_),
              ElementsAre(kAsk1 + kNoThought, "A1" + kEnd, kAsk2 + kNoThought, "A2" + kEnd));
}

TEST_F(Thinking, MaskedHistoryHasNone) {
  EXPECT_THAT(turns(true, true, thoughts_), ElementsAre(kAsk1, "A1" + kEnd, kAsk2, thought2_ + "A2" + kEnd));
  EXPECT_THAT(turns(false, true, thoughts_),
              ElementsAre(kAsk1, "A1" + kEnd, kAsk2 + kNoThought, "A2" + kEnd));
}

TEST_F(Thinking, OnePromptHasNoneInItsHistory) {
  const auto one = [&](bool enable, const std::vector<Message>& m) {
    return texts(*model_.tokenizer, {encoder(enable)->encode_last(m, "")});
  };
  const std::string history = kAsk1 + "A1" + kEnd + kAsk2;
  EXPECT_THAT(one(true, thoughts_), ElementsAre(history, thought2_ + "A2" + kEnd));
  EXPECT_THAT(one(true, plain_), ElementsAre(history, kNoThought + "A2" + kEnd));
  EXPECT_THAT(one(false, thoughts_), ElementsAre(history + kNoThought, "A2" + kEnd));
}

TEST(FormatEncoder, PlaceholdersInMessagesStay) {
  const FormatTokenizer model;
  const auto encoder =
      make_format_encoder(find_chat_format("chatml"), *model.tokenizer, model.text, std::nullopt, true);
  const Message messages[] = {{Role::kUser, "{{name}} and {{content}}"}, {Role::kAssistant, "{{author}}"}};
  EXPECT_THAT(texts(*model.tokenizer, encoder->encode_turns(messages, "", false)),
              ElementsAre("<|im_start|>user\n{{name}} and {{content}}<|im_end|>\n<|im_start|>assistant\n",
                          "{{author}}<|im_end|>\n"));
}

TEST(FormatEncoder, EverySlotIsTokenizedOnItsOwn) {
  const TestTokenizer model("llama2_style");
  const auto encoder =
      make_format_encoder(find_chat_format("mistral"), *model.tokenizer, model.text, std::nullopt, true);
  const Message messages[] = {{Role::kUser, "hi"}, {Role::kAssistant, "yes"}};
  const Turn turn = encoder->encode_turns(messages, "", false)[0];
  std::vector<int32_t> prompt = {1};
  for (const int32_t id : model.tokenizer->encode("[INST] hi[/INST]", false)) prompt.push_back(id);
  std::vector<int32_t> answer = model.tokenizer->encode(" yes", false);
  answer.push_back(2);
  EXPECT_EQ(turn.prompt, prompt);
  EXPECT_EQ(turn.answer, answer);
}

TEST(FormatEncoder, DefaultSystemCanBeReplacedAndTurnedOff) {
  const FormatTokenizer model;
  const Message messages[] = {{Role::kUser, "U1"}, {Role::kAssistant, "A1"}};
  const auto prompt = [&](const std::string& system) {
    const auto encoder =
        make_format_encoder(find_chat_format("smollm2"), *model.tokenizer, model.text, system, true);
    return model.tokenizer->decode(encoder->encode_turns(messages, "", false)[0].prompt, false);
  };
  EXPECT_EQ(prompt("Mine."), "<|im_start|>system\nMine.<|im_end|>\n" + kAsk1);
  EXPECT_EQ(prompt(""), kAsk1);
}

TEST(FormatEncoder, RefusesVocabulariesWithoutItsTokens) {
  const TestTokenizer model("llama2_style");
  EXPECT_THAT(
      error_of(
          [&] { make_format_encoder(find_chat_format("llama3"), *model.tokenizer, model.text, {}, true); }),
      HasSubstr("template 'llama3' ends answers with '<|eot_id|>', which the model's vocabulary lacks"));
  ModelText nameless;
  EXPECT_THAT(error_of([&] {
                make_format_encoder(find_chat_format("default"), *model.tokenizer, nameless, {}, true);
              }),
              HasSubstr("the eos token, which the model does not name"));
}

const char* const kChatml =
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST(JinjaEncoder, TakesDifferencesOfRenders) {
  FormatTokenizer model;
  model.text.chat_template = kChatml;
  const auto encoder = make_turn_encoder(TrainConfig{}, *model.tokenizer, model.text);
  const std::vector<Message> messages = {
      {Role::kUser, "U1"}, {Role::kAssistant, "A1"}, {Role::kUser, "U2"}, {Role::kAssistant, "A2"}};
  const std::string system = "<|im_start|>system\nDefault.<|im_end|>\n";
  EXPECT_THAT(texts(*model.tokenizer, encoder->encode_turns(messages, "", false)),
              ElementsAre(system + kAsk1, "A1" + kEnd, kAsk2, "A2" + kEnd));
  EXPECT_THAT(texts(*model.tokenizer, {encoder->encode_last(messages, "Sys.")}),
              ElementsAre("<|im_start|>system\nSys.<|im_end|>\n" + kAsk1 + "A1" + kEnd + kAsk2, "A2" + kEnd));
}

TEST(JinjaEncoder, RefusesTemplatesThatRewriteEarlierText) {
  FormatTokenizer model;
  model.text.chat_template =
      "{% for m in messages %}{{ m['role'] }}:{% if m['role'] == 'user' or loop.last %}{{ m['content'] }}"
      "{% endif %};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  EXPECT_THAT(error_of([&] { make_turn_encoder(TrainConfig{}, *model.tokenizer, model.text); }),
              HasSubstr("changes earlier text when a message is added"));
  TrainConfig named;
  named.template_name = "chatml";
  EXPECT_EQ(error_of([&] { make_turn_encoder(named, *model.tokenizer, model.text); }), "");
}

TEST(JinjaEncoder, RefusesAnEmptyDefaultSystem) {
  FormatTokenizer model;
  model.text.chat_template = kChatml;
  TrainConfig config;
  config.has_default_system = true;
  EXPECT_THAT(error_of([&] { make_turn_encoder(config, *model.tokenizer, model.text); }),
              HasSubstr("default_system needs a named template"));
}

TEST(TurnEncoder, WithoutAnyTemplateMessagesAreUsedAsTheyAre) {
  const FormatTokenizer model;
  const auto encoder = make_turn_encoder(TrainConfig{}, *model.tokenizer, model.text);
  const Message messages[] = {{Role::kUser, "U1"}, {Role::kAssistant, "A1"}};
  EXPECT_THAT(texts(*model.tokenizer, encoder->encode_turns(messages, "", false)), ElementsAre("U1", "A1"));
}

}  // namespace
}  // namespace polylora
