// What each named format puts around messages: strings written down from LLaMA-Factory's definitions.
#include "tune/data/chat_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct FormatCase {
  const char* name;
  const char* first_prompt;    // of system "Sys.", user "U1"
  const char* first_answer;    // "A1"
  const char* second_prompt;   // "U2"
  const char* default_prompt;  // user "U1" without a system message
};

void PrintTo(const FormatCase& c, std::ostream* out) {
  *out << c.name;
}

const FormatCase kCases[] = {
    {"default", "System: Sys.</s>\nHuman: U1</s>\nAssistant:", "A1</s>\n",
     "Human: U2</s>\nAssistant:", "Human: U1</s>\nAssistant:"},
    {"alpaca", "Sys.### Instruction:\nU1\n\n### Response:\n", "A1</s>\n\n",
     "### Instruction:\nU2\n\n### Response:\n",
     "Below is an instruction that describes a task. Write a response that appropriately completes the "
     "request.\n\n### Instruction:\nU1\n\n### Response:\n"},
    {"chatml", "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n",
     "A1<|im_end|>\n", "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n"},
    {"llama2", "<s>[INST] <<SYS>>\nSys.\n<</SYS>>\n\nU1 [/INST]", "A1</s>", "<s>[INST] U2 [/INST]",
     "<s>[INST] U1 [/INST]"},
    {"llama3",
     "<s><|start_header_id|>system<|end_header_id|>\n\nSys.<|eot_id|><|start_header_id|>user<|end_header_id|>"
     "\n\nU1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "A1<|eot_id|>",
     "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
     "\n\n",
     "<s><|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|><|start_header_id|>assistant"
     "<|end_header_id|>\n\n"},
    {"qwen", "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n",
     "A1<|im_end|>\n", "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
     "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n"},
    {"qwen3", "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n",
     "<think>\n\n</think>\n\nA1<|im_end|>\n", "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n"},
    {"qwen3_nothink",
     "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n",
     "A1<|im_end|>\n", "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n"},
    {"mistral", "<s>[INST] Sys.\n\nU1[/INST]", " A1</s>", "[INST] U2[/INST]", "<s>[INST] U1[/INST]"},
    {"gemma", "<s><start_of_turn>user\nSys.\n\nU1<end_of_turn>\n<start_of_turn>model\n", "A1<end_of_turn>\n",
     "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n",
     "<s><start_of_turn>user\nU1<end_of_turn>\n<start_of_turn>model\n"},
    {"phi", "<|system|>\nSys.<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\n", "A1<|end|>\n",
     "<|user|>\nU2<|end|>\n<|assistant|>\n", "<|user|>\nU1<|end|>\n<|assistant|>\n"},
    {"smollm2", "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n",
     "A1<|im_end|>\n", "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face.<|im_end|>\n"
     "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n"},
    {"empty", "Sys.U1", "A1", "U2", "U1"},
};

std::string case_name(const ::testing::TestParamInfo<FormatCase>& c) {
  return c.param.name;
}

class ChatFormats : public ::testing::TestWithParam<FormatCase> {};

TEST_P(ChatFormats, PutTheseStringsAroundMessages) {
  const FormatCase& expected = GetParam();
  const FormatTokenizer model;
  const auto encoder =
      make_format_encoder(find_chat_format(expected.name), *model.tokenizer, model.text, std::nullopt, true);
  const Message messages[] = {
      {Role::kUser, "U1"}, {Role::kAssistant, "A1"}, {Role::kUser, "U2"}, {Role::kAssistant, "A2"}};
  const auto text = [&](const std::vector<int32_t>& ids) { return model.tokenizer->decode(ids, false); };
  const std::vector<Turn> turns = encoder->encode_turns(messages, "Sys.", false);
  ASSERT_EQ(turns.size(), 2U);
  EXPECT_EQ(text(turns[0].prompt), expected.first_prompt);
  EXPECT_EQ(text(turns[0].answer), expected.first_answer);
  EXPECT_EQ(text(turns[1].prompt), expected.second_prompt);
  EXPECT_EQ(text(encoder->encode_turns(messages, "", false)[0].prompt), expected.default_prompt);
}

INSTANTIATE_TEST_SUITE_P(Names, ChatFormats, ::testing::ValuesIn(kCases), case_name);

TEST(ChatFormatNames, HaveACaseEach) {
  std::vector<std::string> tested;
  for (const FormatCase& c : kCases) tested.emplace_back(c.name);
  EXPECT_THAT(chat_format_names(), ::testing::UnorderedElementsAreArray(tested));
}

TEST(ChatFormatNames, UnknownOnesAreAnsweredWithTheNearest) {
  EXPECT_THAT(error_of([] { find_chat_format("lama3"); }),
              AllOf(HasSubstr("template 'lama3' is not known"), HasSubstr("did you mean llama3?")));
  EXPECT_THAT(error_of([] { find_chat_format("zzzzzzzz"); }), ::testing::Not(HasSubstr("did you mean")));
}

}  // namespace
}  // namespace polylora
