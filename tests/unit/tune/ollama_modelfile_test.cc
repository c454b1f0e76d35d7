#include "tune/merge/ollama_modelfile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tune/data/jinja_format.h"
#include "tune_files.h"

namespace polylora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(OllamaModelfile, IsMadeOfTheFormatsStrings) {
  const FormatTokenizer model;
  EXPECT_EQ(ollama_modelfile(find_chat_format("llama3"), *model.tokenizer, model.text),
            "# Ollama Modelfile, written by polylora export\n\n"
            "FROM .\n\n"
            "TEMPLATE \"\"\"<s>{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n"
            "{{ .System }}<|eot_id|>{{ end }}{{ range .Messages }}{{ if eq .Role \"user\" }}"
            "<|start_header_id|>user<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
            "{{ else if eq .Role \"assistant\" }}{{ .Content }}<|eot_id|>{{ end }}{{ end }}\"\"\"\n\n"
            "PARAMETER stop \"<|eot_id|>\"\n"
            "PARAMETER stop \"<|eom_id|>\"\n"
            "PARAMETER num_ctx 4096\n");
}

TEST(OllamaModelfile, NamesTheDefaultSystemAndTheEos) {
  const FormatTokenizer model;
  const std::string file = ollama_modelfile(find_chat_format("smollm2"), *model.tokenizer, model.text);
  EXPECT_THAT(file, HasSubstr("SYSTEM \"\"\"You are a helpful AI assistant named SmolLM, trained by Hugging "
                              "Face.\"\"\"\n\nPARAMETER stop \"</s>\"\nPARAMETER stop \"<|im_end|>\"\n"));
  EXPECT_THAT(ollama_modelfile(find_chat_format("default"), *model.tokenizer, model.text),
              HasSubstr("Human: {{ .Content }}</s>\nAssistant:"));
}

TEST(StopTokens, LeaveOutWhatTheVocabularyLacks) {
  const TestTokenizer model("llama2_style");
  ChatFormat format = find_chat_format("llama2");
  format.stop_words = {"<|nowhere|>"};
  EXPECT_THAT(stop_tokens(format, *model.tokenizer, model.text), ElementsAre("</s>"));
}

const char* const kChatml =
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST(DeriveChatFormat, ReadsAJinjaTemplatesStrings) {
  FormatTokenizer model;
  model.text.chat_template = kChatml;
  const ChatFormat format = chat_format_of("", *model.tokenizer, model.text);
  EXPECT_EQ(format.default_system, "Default.");
  EXPECT_EQ(format.system.at(0).text, "<|im_start|>system\n{{content}}<|im_end|>\n");
  EXPECT_EQ(format.user.at(0).text, "<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(format.assistant.at(0).text, "{{content}}<|im_end|>\n");
}

TEST(DeriveChatFormat, KeepsABosThatTheTemplateWrites) {
  FormatTokenizer model;
  model.text.chat_template =
      "{{ '<｜begin▁of▁sentence｜>' }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}";
  const ChatFormat format = chat_format_of("", *model.tokenizer, model.text);
  EXPECT_EQ(format.prefix.at(0).text, "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(format.user.at(0).text, "[user]{{content}}[assistant]");
}

TEST(DeriveChatFormat, DoesWithoutSystemMessages) {
  FormatTokenizer model;
  model.text.chat_template =
      "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
      "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
  const ChatFormat format = chat_format_of("", *model.tokenizer, model.text);
  EXPECT_TRUE(format.system.empty());
  EXPECT_THAT(
      ollama_modelfile(format, *model.tokenizer, model.text),
      HasSubstr("TEMPLATE \"\"\"{{ range .Messages }}{{ if eq .Role \"user\" }}user: {{ .Content }}\n"));
}

TEST(DeriveChatFormat, RefusesWhatIsNotMadeOfFixedStrings) {
  FormatTokenizer model;
  model.text.chat_template =
      "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}"
      "{% if add_generation_prompt %}{% endif %}";
  EXPECT_THAT(error_of([&] { chat_format_of("", *model.tokenizer, model.text); }),
              HasSubstr("not made of fixed strings"));
  EXPECT_EQ(chat_format_of("phi", *model.tokenizer, model.text).name, "phi");
  model.text.chat_template.clear();
  EXPECT_EQ(chat_format_of("", *model.tokenizer, model.text).name, "empty");
}

}  // namespace
}  // namespace polylora
