#include "serve/response_writer.h"

#include <gtest/gtest.h>

namespace polylora {
namespace {

using namespace std::string_literals;

std::string written(std::string_view text) {
  JsonText json("");
  json.string(text);
  return std::move(json).take();
}

TEST(JsonText, EscapesAsADocumentDoes) {
  std::vector<std::string> texts = {"",     "plain",     "\"quoted\" \\ back", "Grüße 🌍 日本",
                                    "\xff", "a\xe2\x82", "\xed\xa0\x80|",      "zero\0inside"s};
  for (int byte = 0; byte < 256; ++byte) texts.push_back("x" + std::string(1, static_cast<char>(byte)) + "y");
  for (const std::string& text : texts) EXPECT_EQ(written(text), dump_json(Json(text)));
}

TEST(JsonText, PutsCommasBetweenMembers) {
  JsonText text("{");
  text.key("a").number(-12).key("b").raw("{").key("c").string("{").key("d").json(nullptr).raw("}");
  text.key("e").json(Json{1, 2}).raw("}");
  EXPECT_EQ(std::move(text).take(), R"({"a":-12,"b":{"c":"{","d":null},"e":[1,2]})");
}

class Chunks : public testing::Test {
 protected:
  std::string chunk(const ChunkContext& context) const { return writer->chunk({1, delta, prompt}, context); }

  ReplyHead head{.id = "id-\"1\"", .created = 5, .model = "m", .role = "assistant"};
  const TokenNames names{nullptr, false};
  std::unique_ptr<ResponseWriter> writer = make_completion_writer(head, names);
  ChoiceDelta delta{.text = "a\"\n", .token_ids = {3}, .logprobs = {}, .prompt_logprobs = {}, .end = {}};
  const std::vector<int32_t> prompt{7, 8};
};

TEST_F(Chunks, OfACompletion) {
  EXPECT_EQ(chunk({}),
            R"(data: {"id":"id-\"1\"","object":"text_completion","created":5,"model":"m","choices":[)"
            R"({"index":1,"text":"a\"\n","logprobs":null,"finish_reason":null,"stop_reason":null,)"
            R"("prompt_token_ids":null,"token_ids":null}]})"
            "\n\n");
}

TEST_F(Chunks, LastOfACompletionWithTokenIds) {
  head.return_token_ids = true;
  writer = make_completion_writer(head, names);
  delta.end = ChoiceEnd{FinishReason::kStop, "END", std::nullopt};
  const ChunkContext context{.first_of_choice = true, .last_of_reply = true, .usage = Usage{2, 1, {}}};
  EXPECT_EQ(chunk(context),
            R"(data: {"id":"id-\"1\"","object":"text_completion","created":5,"model":"m","choices":[)"
            R"({"index":1,"text":"a\"\n","logprobs":null,"finish_reason":"stop","stop_reason":"END",)"
            R"("prompt_token_ids":[7,8],"token_ids":[3]}],)"
            R"("usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1},)"
            R"("system_fingerprint":"polylora-)" POLYLORA_VERSION "\"}\n\n");
}

TEST_F(Chunks, OfAChatBeginWithTheRole) {
  writer = make_chat_writer(head, names);
  const std::string begin =
      R"(data: {"id":"id-\"1\"","object":"chat.completion.chunk","created":5,"model":"m","choices":[{"index":1,)";
  EXPECT_EQ(chunk({.first_of_choice = true, .last_of_reply = false, .usage = Usage{2, 1, {}}}),
            begin +
                R"("delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],)"
                R"("usage":{"prompt_tokens":2,"total_tokens":2,"completion_tokens":0},)"
                R"("prompt_token_ids":null,"prompt_text":null})"
                "\n\n" +
                begin +
                R"("delta":{"content":"a\"\n"},"logprobs":null,"finish_reason":null,"token_ids":null}],)"
                R"("usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1}})"
                "\n\n");
  EXPECT_EQ(writer->usage_chunk({2, 1, 0}),
            R"(data: {"id":"id-\"1\"","object":"chat.completion.chunk","created":5,"model":"m","choices":[],)"
            R"("usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1,)"
            R"("prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"polylora-)" POLYLORA_VERSION
            "\"}\n\n");
}

}  // namespace
}  // namespace polylora
