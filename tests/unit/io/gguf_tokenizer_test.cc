#include "io/gguf_tokenizer.h"

#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::json;

class GgufTokenizer : public testing::Test {
 protected:
  GgufBuilder vocabulary(const std::string& pre) {
    GgufBuilder builder;
    builder.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
    builder.texts("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "ab", "<tool>"});
    builder.i32s("tokenizer.ggml.token_type", {3, 1, 1, 1, 4});
    builder.texts("tokenizer.ggml.merges", {"a b"});
    return builder.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 0);
  }
  TextAssets read(const GgufBuilder& builder, int vocab_size = 5) {
    TextAssets text;
    read_gguf_tokenizer(GgufFile(folder_.write("t.gguf", builder.bytes())), vocab_size, text);
    return text;
  }

  TempFolder folder_;
};

TEST_F(GgufTokenizer, BecomesAnHfTokenizer) {
  const TextAssets text = read(vocabulary("smollm").text("tokenizer.chat_template", "{{ x }}"));
  const json tokenizer = json::parse(text.tokenizer_json);
  EXPECT_EQ(tokenizer["model"]["type"], "BPE");
  EXPECT_EQ(tokenizer["model"]["vocab"]["ab"], 3);
  EXPECT_EQ(tokenizer["model"]["merges"], json::array({"a b"}));
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][1]["type"], "ByteLevel");
  EXPECT_TRUE(tokenizer["post_processor"].is_null());
  EXPECT_EQ(text.bos_token, "<|end|>");
  EXPECT_EQ(text.eos_token, "<|end|>");
  EXPECT_EQ(text.chat_template, "{{ x }}");
  EXPECT_EQ(json::parse(text.tokenizer_config_json)["eos_token"], "<|end|>");
}

TEST_F(GgufTokenizer, ControlTokensAreSpecialUserDefinedOnesOnlyAdded) {
  const json added = json::parse(read(vocabulary("gpt-2")).tokenizer_json)["added_tokens"];
  ASSERT_EQ(added.size(), 2u);
  EXPECT_EQ(added[0]["content"], "<|end|>");
  EXPECT_EQ(added[0]["special"], true);
  EXPECT_EQ(added[1]["id"], 4);
  EXPECT_EQ(added[1]["special"], false);
}

TEST_F(GgufTokenizer, PutsBosInFrontWhereTheFileOrThePreTokenizerSaysSo) {
  const auto has_bos = [&](const GgufBuilder& builder) {
    const json processor = json::parse(read(builder).tokenizer_json)["post_processor"];
    return !processor.is_null() && processor["single"][0]["SpecialToken"]["id"] == "<|end|>";
  };
  EXPECT_FALSE(has_bos(vocabulary("gpt-2")));
  EXPECT_TRUE(has_bos(vocabulary("gpt-2").boolean("tokenizer.ggml.add_bos_token", true)));
  EXPECT_TRUE(has_bos(vocabulary("llama-bpe")));
  EXPECT_FALSE(has_bos(vocabulary("llama-bpe").boolean("tokenizer.ggml.add_bos_token", false)));
}

TEST_F(GgufTokenizer, KnowsThePreTokenizersByName) {
  EXPECT_EQ(json::parse(read(vocabulary("qwen2")).tokenizer_json)["normalizer"]["type"], "NFC");
  EXPECT_EQ(json::parse(read(vocabulary("llama-bpe")).tokenizer_json)["model"]["ignore_merges"], true);
  expect_error(ErrorCode::kUnsupported, {"t.gguf", "'nonsense'", "smollm", "deepseek-v3"},
               [&] { read(vocabulary("nonsense")); });
}

TEST_F(GgufTokenizer, SplitsOneAfterTheOther) {
  const auto parts_of = [&](const char* pre) {
    std::vector<std::string> parts;
    const json pre_tokenizer = json::parse(read(vocabulary(pre)).tokenizer_json)["pre_tokenizer"];
    for (const json& part : pre_tokenizer.value("pretokenizers", json::array({pre_tokenizer}))) {
      const std::string type = part["type"];
      parts.push_back(type == "ByteLevel" && part["use_regex"] == true ? "GPT-2" : type);
    }
    return parts;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(parts_of("gpt-2"), ElementsAre("GPT-2"));
  EXPECT_THAT(parts_of("starcoder"), ElementsAre("Digits", "GPT-2"));
  EXPECT_THAT(parts_of("falcon"), ElementsAre("Split", "Split", "Split", "ByteLevel"));
  EXPECT_THAT(parts_of("deepseek-v3"), ElementsAre("Split", "Split", "Split", "ByteLevel"));
  EXPECT_THAT(parts_of("deepseek-coder"),
              ElementsAre("Split", "Split", "Split", "Split", "Digits", "ByteLevel"));
}

TEST_F(GgufTokenizer, ADefaultPreTokenizerIsThatOfAFileWithoutAName) {
  GgufBuilder nameless;
  nameless.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", {"a"});
  nameless.texts("tokenizer.ggml.merges", {});
  EXPECT_EQ(json::parse(read(nameless).tokenizer_json)["pre_tokenizer"],
            json::parse(read(vocabulary("default")).tokenizer_json)["pre_tokenizer"]);
}

TEST_F(GgufTokenizer, ExportsFindTheNameAgain) {
  for (const char* pre : {"smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "deepseek-v3", "deepseek-llm",
                          "deepseek-coder", "gpt-4o", "falcon", "default"})
    EXPECT_EQ(gguf_pre_tokenizer_name(json::parse(read(vocabulary(pre)).tokenizer_json), "x"), pre);
  expect_error(ErrorCode::kUnsupported, {"x", "no GGUF name"}, [] {
    gguf_pre_tokenizer_name({{"pre_tokenizer", {{"type", "Whitespace"}}}}, "x");
  });
}

/// A SentencePiece vocabulary, of either kind.
GgufBuilder pieces(const std::string& kind, const std::vector<float>& scores = {0, 0, 0, 0, -2, -3, -1}) {
  GgufBuilder builder;
  builder.text("tokenizer.ggml.model", kind);
  builder.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x21>", "a", "b", "ab"});
  builder.i32s("tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1}).f32s("tokenizer.ggml.scores", scores);
  builder.u32("tokenizer.ggml.unknown_token_id", 0);
  return builder.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
}

TEST_F(GgufTokenizer, ASentencePieceVocabularyHasScoresInsteadOfMerges) {
  const json tokenizer = json::parse(read(pieces("llama"), 7).tokenizer_json);
  EXPECT_EQ(tokenizer["model"]["merges"], json::array({"a b"}));
  EXPECT_EQ(tokenizer["model"]["byte_fallback"], true);
  EXPECT_EQ(tokenizer["normalizer"]["normalizers"][0]["type"], "Prepend");
  EXPECT_EQ(tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
  const json bare = json::parse(read(pieces("llama")
                                         .boolean("tokenizer.ggml.add_space_prefix", false)
                                         .boolean("tokenizer.ggml.add_bos_token", false),
                                     7)
                                    .tokenizer_json);
  EXPECT_EQ(bare["normalizer"]["type"], "Replace");
  EXPECT_TRUE(bare["post_processor"].is_null());
  expect_error(ErrorCode::kDataCorrupt, {"t.gguf", "differ in length"}, [&] {
    read(pieces("llama", {0, 0}), 7);
  });
}

TEST_F(GgufTokenizer, AUnigramVocabularyNormalisesAndEndsTexts) {
  const json tokenizer = json::parse(read(pieces("t5")
                                              .i8s("tokenizer.ggml.precompiled_charsmap", {0, -1, 127, -128})
                                              .boolean("tokenizer.ggml.add_space_prefix", true)
                                              .boolean("tokenizer.ggml.remove_extra_whitespaces", true),
                                          7)
                                         .tokenizer_json);
  EXPECT_EQ(tokenizer["model"]["type"], "Unigram");
  EXPECT_EQ(tokenizer["model"]["vocab"][6], json({"ab", -1.0}));
  EXPECT_EQ(tokenizer["normalizer"]["normalizers"].size(), 5u);
  EXPECT_EQ(tokenizer["normalizer"]["normalizers"][0]["precompiled_charsmap"], "AP9/gA==");
  EXPECT_EQ(tokenizer["post_processor"]["single"][1]["SpecialToken"]["id"], "</s>");
  expect_error(ErrorCode::kDataCorrupt, {"t.gguf", "not an array of bytes"},
               [&] { read(pieces("t5").i32s("tokenizer.ggml.precompiled_charsmap", {256}), 7); });
}

TEST_F(GgufTokenizer, AFileWithoutAVocabularyLeavesItEmpty) {
  EXPECT_TRUE(read(GgufBuilder().u32("x", 1)).tokenizer_json.empty());
  for (const char* kind : {"none", "no_vocab"})
    EXPECT_TRUE(read(GgufBuilder().text("tokenizer.ggml.model", kind)).tokenizer_json.empty()) << kind;
}

TEST_F(GgufTokenizer, RefusesBrokenVocabularies) {
  expect_error(ErrorCode::kUnsupported, {"t.gguf", "'bert'", "t5"},
               [&] { read(GgufBuilder().text("tokenizer.ggml.model", "bert")); });
  expect_error(ErrorCode::kDataCorrupt, {"5 tokens", "has 4"}, [&] { read(vocabulary("gpt-2"), 4); });
  expect_error(ErrorCode::kDataCorrupt, {"tokenizer.ggml.tokens is missing"},
               [&] { read(GgufBuilder().text("tokenizer.ggml.model", "gpt2")); });
  expect_error(ErrorCode::kDataCorrupt, {"eos_token_id is outside"},
               [&] { read(vocabulary("gpt-2").u32("tokenizer.ggml.eos_token_id", 5)); });
}

}  // namespace
}  // namespace polylora
