#include "io/sentencepiece.h"

#include <gmock/gmock.h>

#include <fstream>
#include <map>

#include "io/checkpoint.h"
#include "io/file_builders.h"
#include "io/gguf_tokenizer.h"
#include "io/hf_checkpoint.h"

namespace polylora {
namespace {

using namespace testing_files;
using ::testing::ElementsAre;
namespace fs = std::filesystem;

const fs::path kShared = fs::path(POLYLORA_TEST_DATA) / "../../../shared/golden/tokenizers";

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number(uint32_t field, uint64_t value) {
  return varint(field << 3) + varint(value);
}
std::string bytes(uint32_t field, const std::string& value) {
  return varint(field << 3 | 2) + varint(value.size()) + value;
}
std::string real(uint32_t field, float value) {
  return varint(field << 3 | 5) + std::string(reinterpret_cast<const char*>(&value), 4);
}

struct Piece {
  std::string text;
  float score = 0;
  int type = 1;
};

const std::vector<Piece> kPieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3},  {"<0x21>", 0, 6},
                                    {"▁a", -1},      {"ab", -2},    {"▁ab", -3},     {"▁", -4},
                                    {"a", -5},       {"b", -6},     {"<|hi|>", 0, 4}};

std::string model_bytes(int kind = 2, const std::string& normalizer = {}) {
  std::string out;
  for (const Piece& piece : kPieces)
    out +=
        bytes(1, bytes(1, piece.text) + real(2, piece.score) + number(3, static_cast<uint64_t>(piece.type)));
  return out + bytes(2, number(3, static_cast<uint64_t>(kind)) + number(35, 1)) + bytes(3, normalizer);
}

TEST(SentencePiece, ReadsAModel) {
  const SentencePieces model = parse_sentencepiece_model(model_bytes(), "x");
  ASSERT_EQ(model.pieces.size(), kPieces.size());
  EXPECT_EQ(model.pieces[6].text, "▁ab");
  EXPECT_EQ(model.pieces[6].score, -3.0f);
  EXPECT_EQ(model.pieces[10].type, PieceType::kUserDefined);
  EXPECT_TRUE(model.byte_fallback);
  EXPECT_TRUE(model.add_dummy_prefix);
  EXPECT_EQ(model.text_of(model.eos_id), "</s>");
  EXPECT_FALSE(parse_sentencepiece_model(model_bytes(2, number(3, 0)), "x").add_dummy_prefix);
}

TEST(SentencePiece, MergesFollowScoresAndLengths) {
  EXPECT_THAT(implied_merges(parse_sentencepiece_model(model_bytes(), "x")),
              ElementsAre("▁ a", "a b", "▁a b", "▁ ab"));
}

TEST(SentencePiece, RefusesByName) {
  expect_error(ErrorCode::kUnsupported, {"t.model", "kind word"},
               [] { parse_sentencepiece_model(model_bytes(3), "t.model"); });
  const std::string suffixes = bytes(1, bytes(1, "a")) + bytes(2, number(3, 1) + number(24, 1));
  expect_error(ErrorCode::kUnsupported, {"t.model", "behind words"},
               [&] { parse_sentencepiece_model(suffixes, "t.model"); });
  expect_error(ErrorCode::kDataCorrupt, {"t.model"},
               [] { parse_sentencepiece_model("nonsense", "t.model"); });
  expect_error(ErrorCode::kDataCorrupt, {"t.model"}, [] { parse_sentencepiece_model("", "t.model"); });
}

TEST(SentencePiece, AUnigramModelKeepsItsScores) {
  const auto json = sentencepiece_tokenizer(parse_sentencepiece_model(model_bytes(1), "x"), true, false);
  EXPECT_EQ(json["model"]["type"], "Unigram");
  EXPECT_EQ(json["model"]["vocab"][6][0], "▁ab");
  EXPECT_EQ(json["model"]["vocab"][6][1], -3.0);
  EXPECT_EQ(json["model"]["unk_id"], 0);
}

/// What a model's normalizer_spec becomes, as types and patterns.
nlohmann::json normalizer_of(const std::string& spec) {
  return nlohmann::json::parse(
      sentencepiece_tokenizer(parse_sentencepiece_model(model_bytes(1, spec), "x"), false, false)
          .dump())["normalizer"];
}

TEST(SentencePiece, NormalisesAsTheModelSays) {
  const nlohmann::json all = normalizer_of(bytes(2, "table"))["normalizers"];
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0], nlohmann::json({{"type", "Precompiled"}, {"precompiled_charsmap", "dGFibGU="}}));
  EXPECT_EQ(all[1]["pattern"]["Regex"], " {2,}");
  EXPECT_EQ(all[2]["content"], "");
  EXPECT_EQ(all[3]["prepend"], "▁");
  EXPECT_EQ(all[4]["content"], "▁");
  EXPECT_EQ(normalizer_of(number(4, 0))["normalizers"].size(), 2u);
  EXPECT_EQ(normalizer_of(number(3, 0) + number(4, 0))["type"], "Replace");
  EXPECT_EQ(normalizer_of(number(4, 0) + number(5, 0))["prepend"], " ");
  EXPECT_TRUE(normalizer_of(number(3, 0) + number(4, 0) + number(5, 0)).is_null());
}

TEST(SentencePiece, SurvivesMutations) {
  survive_mutations(model_bytes(), 3000,
                    [](const std::string& text) { implied_merges(parse_sentencepiece_model(text, "x")); });
}

TEST(SentencePiece, AFolderWithoutTokenizerJsonHasOne) {
  TempFolder folder;
  folder.write("tokenizer.model", model_bytes());
  const TextAssets text = read_hf_text_assets(folder.path());
  EXPECT_EQ(text.bos_token, "<s>");
  const auto json = nlohmann::json::parse(text.tokenizer_json);
  EXPECT_EQ(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
  EXPECT_EQ(json["model"]["vocab"]["▁ab"], 6);
  EXPECT_EQ(json["added_tokens"].size(), 4u);
  folder.write("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_TRUE(
      nlohmann::json::parse(read_hf_text_assets(folder.path()).tokenizer_json)["post_processor"].is_null());
}

/// Mistral 7B's own tokenizer.json was made of its tokenizer.model, whose scores fall with the ids but
/// for runs of spaces, which come last.
TEST(SentencePiece, MergesAreThoseOfARealTokenizer) {
  const fs::path path = kShared / "mistral_v1_real" / "tokenizer.json";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is not there";
  const auto json = nlohmann::json::parse(std::ifstream(path));
  std::map<int64_t, std::string> by_id;
  for (const auto& [text, id] : json["model"]["vocab"].items()) by_id[id] = text;
  SentencePieces vocabulary;
  for (const auto& [id, text] : by_id) {
    const bool run_of_spaces = text.size() > 3 && text.find_first_not_of("▁") == std::string::npos;
    vocabulary.pieces.push_back({text, run_of_spaces ? -1e9f : -static_cast<float>(id)});
  }
  std::vector<std::string> expected;
  for (const auto& merge : json["model"]["merges"])
    expected.push_back(merge.is_array() ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                        : merge.get<std::string>());
  EXPECT_EQ(implied_merges(vocabulary), expected);
}

}  // namespace
}  // namespace polylora
