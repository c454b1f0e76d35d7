#include "tune/data/tokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;

constexpr int32_t kMask = kIgnoreIndex;

/// An encoder whose token ids are the letters of the messages.
class LetterEncoder final : public TurnEncoder {
 public:
  explicit LetterEncoder(bool efficient_eos) {
    efficient_eos_ = efficient_eos;
    eos_id_ = 0;
  }
  std::vector<Turn> encode_turns(std::span<const Message> m, const std::string&, bool) const override {
    std::vector<Turn> turns;
    for (size_t i = 0; i + 1 < m.size(); i += 2) turns.push_back({ids(m[i]), ids(m[i + 1])});
    return turns;
  }
  Turn encode_last(std::span<const Message> m, const std::string&) const override {
    Turn turn;
    for (const Message& message : m.first(m.size() - 1))
      for (const int32_t id : ids(message)) turn.prompt.push_back(id);
    turn.answer = ids(m.back());
    return turn;
  }

 private:
  static Ids ids(const Message& m) { return {m.content.begin(), m.content.end()}; }
};

Conversation conversation(std::vector<Message> prompt, std::vector<std::string> answers) {
  Conversation c;
  c.prompt = std::move(prompt);
  c.answers = std::move(answers);
  return c;
}

const Conversation kTwoTurns =
    conversation({{Role::kUser, "ab"}, {Role::kAssistant, "cd"}, {Role::kUser, "ef"}}, {"gh"});

TEST(InferSeqlen, CutsWhatIsLong) {
  const auto lengths = [](size_t prompt, size_t answer, size_t cutoff) {
    const TurnLengths kept = infer_seqlen(prompt, answer, cutoff);
    return std::pair(kept.prompt, kept.answer);
  };
  EXPECT_EQ(lengths(3, 5, 10), std::pair(size_t{3}, size_t{5}));
  EXPECT_EQ(lengths(30, 4, 10), std::pair(size_t{6}, size_t{4}));   // a short answer: the prompt
  EXPECT_EQ(lengths(4, 30, 10), std::pair(size_t{4}, size_t{6}));   // a short prompt: the answer
  EXPECT_EQ(lengths(20, 10, 10), std::pair(size_t{7}, size_t{3}));  // both in proportion, rounded down
  EXPECT_EQ(lengths(10, 5, 10), std::pair(size_t{7}, size_t{3}));   // 2 * answer == cutoff is not short
  EXPECT_EQ(lengths(100, 100, 1), std::pair(size_t{1}, size_t{0}));
  EXPECT_EQ(lengths(0, 0, 1), std::pair(size_t{0}, size_t{0}));
}

TEST(TokenizeConversation, LabelsAnswersOnly) {
  const Example example = tokenize_conversation(LetterEncoder(false), kTwoTurns, {});
  EXPECT_THAT(example.input_ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'));
  EXPECT_THAT(example.labels, ElementsAre(kMask, kMask, 'c', 'd', kMask, kMask, 'g', 'h'));
  EXPECT_TRUE(example.positions.empty());
  EXPECT_TRUE(example.segments.empty());
}

TEST(TokenizeConversation, EfficientEosIsLearnedWhereTheNextPromptBegins) {
  const Example example = tokenize_conversation(LetterEncoder(true), kTwoTurns, {});
  EXPECT_THAT(example.input_ids, ElementsAre('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 0));
  EXPECT_THAT(example.labels, ElementsAre(kMask, kMask, 'c', 'd', 0, kMask, 'g', 'h', 0));
}

TEST(TokenizeConversation, EfficientEosCountsFromTheLastTurnWithMaskHistory) {
  TokenizeOptions options;
  options.mask_history = true;
  const Example example = tokenize_conversation(LetterEncoder(true), kTwoTurns, options);
  EXPECT_THAT(example.labels, ElementsAre(0, kMask, kMask, kMask, kMask, kMask, 'g', 'h', 0));
}

TEST(TokenizeConversation, TurnsBeyondTheBudgetAreLeftOut) {
  TokenizeOptions options;
  options.cutoff_len = 4;
  EXPECT_THAT(tokenize_conversation(LetterEncoder(false), kTwoTurns, options).input_ids,
              ElementsAre('a', 'b', 'c', 'd'));
  options.mask_history = true;
  EXPECT_THAT(tokenize_conversation(LetterEncoder(false), kTwoTurns, options).input_ids,
              ElementsAre('e', 'f', 'g', 'h'));
}

TEST(TokenizePair, CutsBothAnswersAlike) {
  const Conversation pair = conversation({{Role::kUser, "abcdefgh"}}, {"123456", "78"});
  TokenizeOptions options;
  options.cutoff_len = 8;
  const PreferencePair result = tokenize_pair(LetterEncoder(false), pair, options);
  // 8 * 6 / (8 + 6) = 3 tokens of the longer answer; 5 of the prompt.
  EXPECT_THAT(result.chosen.input_ids, ElementsAre('a', 'b', 'c', 'd', 'e', '1', '2', '3'));
  EXPECT_THAT(result.chosen.labels, ElementsAre(kMask, kMask, kMask, kMask, kMask, '1', '2', '3'));
  EXPECT_THAT(result.rejected.input_ids, ElementsAre('a', 'b', 'c', 'd', 'e', '7', '8'));
  EXPECT_THAT(result.rejected.labels, ElementsAre(kMask, kMask, kMask, kMask, kMask, '7', '8'));
}

TEST(TokenizePair, TheWholeHistoryIsPrompt) {
  const Conversation pair =
      conversation({{Role::kUser, "a"}, {Role::kAssistant, "b"}, {Role::kUser, "c"}}, {"y", "n"});
  const PreferencePair result = tokenize_pair(LetterEncoder(true), pair, {});
  EXPECT_THAT(result.chosen.labels, ElementsAre(kMask, kMask, kMask, 'y', 0));
  EXPECT_THAT(result.rejected.labels, ElementsAre(kMask, kMask, kMask, 'n', 0));
}

TEST(TokenizeDocument, IsAllLabelledAndCut) {
  const FormatTokenizer model;
  TokenizeOptions options;
  const Example whole = tokenize_document(*model.tokenizer, "some text", {"<s>", "</s>"}, options);
  EXPECT_EQ(model.tokenizer->decode(whole.input_ids, false), "<s>some text</s>");
  EXPECT_EQ(whole.labels, whole.input_ids);
  options.cutoff_len = 2;
  const Example cut = tokenize_document(*model.tokenizer, "some text", {"<s>", "</s>"}, options);
  EXPECT_THAT(cut.input_ids, ElementsAre(whole.input_ids[0], whole.input_ids[1]));
  EXPECT_EQ(cut.labels, cut.input_ids);
}

}  // namespace
}  // namespace polylora
