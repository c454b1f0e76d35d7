#include "text/unigram.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/base64.h"
#include "base/error.h"
#include "text/charsmap_builder.h"
#include "text/tokenizer.h"

namespace polylora {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

json vocabulary(bool byte_fallback) {
  json list = json::parse(R"([["<unk>",0.0],["▁",-2.5],["▁the",-3.0],["▁th",-4.0],["the",-4.5],["▁a",-3.2],
    ["a",-4.1],["b",-4.2],["ab",-5.0],["abab",-8.3],["t",-4.6],["h",-4.7],["e",-4.3],["he",-5.5],["▁▁",-6.0],
    ["é",-7.0],["ing",-4.9],["i",-5.1],["n",-5.2],["g",-5.3],["in",-6.1],["ng",-6.2],["▁ab",-6.9],
    ["<unk2>",-9.0]])");
  for (int byte = 0; byte < 256 && byte_fallback; ++byte)
    list.push_back({fmt::format("<0x{:02X}>", byte), -20.0});
  return list;
}

json tokenizer_json(bool byte_fallback) {
  const json metaspace = {
      {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}};
  return {{"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", metaspace},
          {"post_processor", nullptr},
          {"decoder", metaspace},
          {"model",
           {{"type", "Unigram"},
            {"unk_id", 0},
            {"vocab", vocabulary(byte_fallback)},
            {"byte_fallback", byte_fallback}}}};
}

std::unique_ptr<Tokenizer> tokenizer(bool byte_fallback) {
  return Tokenizer::from_json(tokenizer_json(byte_fallback).dump());
}

/// The components of T5's and XLM-R's files, in the older spelling of Metaspace.
std::unique_ptr<Tokenizer> t5_style() {
  const std::string table =
      testing_text::charsmap_bytes({{"ａ", "a"}, {"\u3000", " "}, {"\u200B", ""}, {"e\u0301", "é"}});
  const json collapse = {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}};
  const json metaspace = {{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", true}};
  json file = tokenizer_json(false);
  file["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Precompiled"}, {"precompiled_charsmap", base64_encode(table)}}, collapse}}};
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {{{"type", "WhitespaceSplit"}}, metaspace}}};
  file["post_processor"] =
      json::parse(R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},
      {"SpecialToken":{"id":"g","type_id":0}}],"pair":[],"special_tokens":{"g":{"id":"g","ids":[19],"tokens":["g"]}}})");
  file["decoder"] = metaspace;
  return Tokenizer::from_json(file.dump());
}

/// Expected ids are those of the Python package tokenizers 0.23.3.
TEST(Unigram, SegmentsAsTheReference) {
  const auto plain = tokenizer(false);
  const auto ids = [&](std::string_view text) { return plain->encode(text, false); };
  EXPECT_THAT(ids("the abab ab"), ElementsAre(2, 1, 9, 22));
  EXPECT_THAT(ids("thing theb"), ElementsAre(3, 16, 2, 7));
  EXPECT_THAT(ids("zzz a"), ElementsAre(1, 0, 5)) << "unknown characters in a row are one";
  EXPECT_THAT(ids("a世界é b"), ElementsAre(5, 0, 15, 1, 7));
  EXPECT_THAT(ids(""), IsEmpty());
  EXPECT_THAT(ids("inginging xaxbx"), ElementsAre(1, 16, 16, 16, 1, 0, 6, 0, 7, 0));
  EXPECT_THAT(ids("ababab"), ElementsAre(22, 9));
}

TEST(Unigram, FallsBackToBytesAsTheReference) {
  const auto bytes = tokenizer(true);
  EXPECT_THAT(bytes->encode("a世界é b", false), ElementsAre(5, 252, 208, 174, 255, 173, 164, 15, 1, 7));
  EXPECT_THAT(bytes->encode("zzz a", false), ElementsAre(1, 146, 146, 146, 5));
}

TEST(Unigram, NormalisesWithATableAsTheReference) {
  const auto t5 = t5_style();
  EXPECT_THAT(t5->encode("the \uFF41\uFF42", true), ElementsAre(2, 5, 0, 19));
  EXPECT_THAT(t5->encode("  \uFF41\u3000 \u3000the\u200Bing ", true), ElementsAre(5, 2, 16, 19));
  EXPECT_THAT(t5->encode("the\u0301", true), ElementsAre(3, 15, 19));
  EXPECT_THAT(t5->encode("\uFF41\u0301b\tab", true), ElementsAre(22, 22, 19));
  EXPECT_THAT(t5->encode("z\uFF5A\u3000", true), ElementsAre(1, 0, 19));
}

TEST(Unigram, ReadsBackWhatItWrote) {
  EXPECT_EQ(tokenizer(false)->decode(tokenizer(false)->encode("the thing ab", false), false), "the thing ab");
}

TEST(Unigram, RefusesABrokenVocabulary) {
  const auto code_of = [](const json& model) {
    try {
      Unigram unigram(model);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code_of({{"vocab", json::array()}}), ErrorCode::kDataCorrupt);
  EXPECT_EQ(code_of({{"vocab", {{"a", "b"}}}}), ErrorCode::kDataCorrupt);
  EXPECT_EQ(code_of({{"vocab", {{"a", std::numeric_limits<double>::infinity()}}}}), ErrorCode::kDataCorrupt);
  EXPECT_EQ(code_of({{"vocab", {{"a", -1.0}}}, {"unk_id", 1}}), ErrorCode::kDataCorrupt);
}

}  // namespace
}  // namespace polylora
