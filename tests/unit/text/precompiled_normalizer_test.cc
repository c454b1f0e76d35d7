#include "text/precompiled_normalizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "base/base64.h"
#include "base/error.h"
#include "text/charsmap_builder.h"
#include "text/graphemes.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using namespace std::string_view_literals;
using testing_text::charsmap_bytes;

std::unique_ptr<Normalizer> normalizer(const std::string& blob) {
  return make_normalizer({{"type", "Precompiled"}, {"precompiled_charsmap", base64_encode(blob)}});
}

const std::map<std::string, std::string> kTable = {
    {"\uFB01", "fi"},
    {"\u2460", "1"},
    {"\uFF21", "A"},
    {"e\u0301", "\u00E9"},
    {"\uFF76", "\u30AB"},
    {"\uFF76\uFF9E", "\u30AC"},
    {"\u00AA", "a"},
    {"\u00AA\u0300", "\u00E0"},
    {"\t", " "},
    {"\u3000", " "},
    {"\u200B", ""},
    {"\001", ""},
    {"\r\n", "|"},
    {"\u00A9", "(c)"},
    {"a", "x"},
    {"ab", "y"},
    {"\U0001F1E9", "D"},
    {"\U0001F600", ":)"},
    {"\u0600", "#"},
    {"\uFDFA",
     "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647 \u0639\u0644\u064A\u0647 \u0648\u0633\u0644\u0645"},
    {"\u0308", "\""}};

TEST(Precompiled, ReplacesAsTheReference) {
  // What the Python package tokenizers 0.23.3 makes of each.
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", ""},
      {"plain text", "plxin text"},
      {"\uFB01ne \u2460\uFF21", "fine 1A"},
      {"e\u0301te\u0301", "\u00E9t\u00E9"},
      {"e\u0300\u0301", "e\u0300\u0301"},
      {"e\u0301\u0300", "\u00E9"},
      {"\uFF76\uFF9E\uFF76", "\u30AB\uFF9E\u30AB"},
      {"\u00AA", "a"},
      {"\u00AA\u0300", "a"},
      {"\u00AA\u0301b", "ab"},
      {"x\t\uFF59\u3000z", "x \uFF59 z"},
      {"a", "x"},
      {"ab", "xb"},
      {"ba", "bx"},
      {"a\u0301b", "xb"},
      {"a\u0301\u0301b", "xb"},
      {"a\u0301\u0301\u0301b", "x\u0301\u0301\u0301b"},
      {"\r\n", "|"},
      {"\r", "\r"},
      {"\n\r\n", "\n|"},
      {"a\r\na", "x|x"},
      {"\001a\001", "x"},
      {"b\000a"sv, "b\000x"sv},
      {"\u200B\u200B", ""},
      {"a\u200Bb", "xb"},
      {"\u00A9", "(c)"},
      {"\u00A9\u200Dz", "(c)z"},
      {"\u00A9\u200D\u00A9", "(c)\u200D(c)"},
      {"\U0001F600", ":)"},
      {"\U0001F600\uFE0F", ":)\uFE0F"},
      {"\U0001F600\u200D\U0001F600", ":)\u200D:)"},
      {"\U0001F1E9\U0001F1EA", "D\U0001F1EA"},
      {"\U0001F1E9\U0001F1E9\U0001F1E9", "DDD"},
      {"\u0600b", "#"},
      {"\u0600a", "#"},
      {"\u0600\u0308", "#"},
      {"\u0308", "\""},
      {"n\u0308", "n\""},
      {"nn\u0308\u0308\u0308", "nn\"\"\""},
      {"\uFF21\u0308", "A"},
      {"\uFF21\u0308\u0308", "A\"\""},
      {"\uFDFA",
       "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647 \u0639\u0644\u064A\u0647 \u0648\u0633\u0644\u0645"},
      {"\uAC00\u1100\u1161\u11A8", "\uAC00\u1100\u1161\u11A8"},
      {"\uFF21\uD55C", "A\uD55C"},
      {"\u0915\u094D\u0937\u0308", "\u0915\u094D\u0937\""},
      {"\u0E01\u0E33", "\u0E01\u0E33"},
      {"q\u200Ba\u0308", "qx"}};
  const auto precompiled = normalizer(charsmap_bytes(kTable));
  for (const auto& [text, expected] : cases) EXPECT_EQ(precompiled->apply(std::string(text)), expected);
}

TEST(Precompiled, AKeyMayBeAnyBytes) {
  const auto precompiled = normalizer(charsmap_bytes({{"\xCC", "?"}, {"\xE2\x98", "!"}}));
  EXPECT_EQ(precompiled->apply("\u0301 \u2603 \u2660 x\u0301\u0301\u0301"), "? ! \u2660 x???");
}

ErrorCode code_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kInternal;
}

TEST(Precompiled, RefusesABrokenTable) {
  const std::string good = charsmap_bytes({{"a", "\u00e9"}});
  const auto code = [](const std::string& blob) { return code_of([&] { normalizer(blob); }); };
  EXPECT_EQ(code(""), ErrorCode::kDataCorrupt);
  EXPECT_EQ(code("abc"), ErrorCode::kDataCorrupt);
  EXPECT_EQ(code(std::string(8, '\0')), ErrorCode::kDataCorrupt) << "no trie";
  EXPECT_EQ(code(good.substr(0, 100)), ErrorCode::kDataCorrupt) << "cut off in the trie";
  EXPECT_EQ(code(good.substr(0, good.size() - 2)), ErrorCode::kDataCorrupt) << "cut off in a character";
  std::string far = good;
  far[4 + 4 * (256 | 'a') + 3] = '\x7f';
  EXPECT_EQ(code(far), ErrorCode::kDataCorrupt) << "an offset outside";
  std::string inside = good;
  inside[4 + 4 * (512 | 'a')] = '\1';
  EXPECT_EQ(code(inside), ErrorCode::kDataCorrupt) << "a value inside a character";
  EXPECT_EQ(code_of([] {
              make_normalizer({{"type", "Precompiled"}, {"precompiled_charsmap", "no base64"}});
            }),
            ErrorCode::kDataCorrupt);
}

TEST(Precompiled, SurvivesMutations) {
  std::mt19937 random(7);
  const std::string good = charsmap_bytes(kTable);
  const std::string text = "a\u0301 \uFB01 \uFF76\uFF9E \u00AA\u0300 \U0001F600 e\u0301\r\n\u0600b\u3000";
  for (int i = 0; i < 1000; ++i) {
    std::string blob = good;
    for (int n = 0; n < 4; ++n) blob[random() % blob.size()] = static_cast<char>(random());
    try {
      EXPECT_TRUE(is_valid_utf8(normalizer(blob)->apply(text)));
    } catch (const Error&) {
    }
  }
}

TEST(Precompiled, TakesTimeProportionalToTheText) {
  const auto precompiled = normalizer(charsmap_bytes(kTable));
  const auto seconds = [&](std::string_view unit, size_t bytes) {
    std::string text = "x";
    while (text.size() < bytes) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    precompiled->apply(std::move(text));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  constexpr double kPatience = 2.0;  // 0.2 s are 5 MB/s; machines are busy and sanitizers slow
  for (const std::string_view unit : {"\u0301", "\u200D", "\U0001F1E9", "\U0001F600\u200D", "\u0600",
                                      "\u0600a", "\u1100", "e\u0301", "plain text "})
    EXPECT_LT(seconds(unit, 1 << 20), kPatience) << unit;
}

/// Every cluster of a text, divided by bars.
std::string clusters(std::string_view text) {
  std::string out;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = grapheme_end(text, begin);
    out.append(out.empty() ? "" : "|").append(text.substr(begin, end - begin));
  }
  return out;
}

TEST(Graphemes, FollowTheRulesOfUnicode) {
  EXPECT_EQ(clusters("ab\r\n\rc"), "a|b|\r\n|\r|c");
  EXPECT_EQ(clusters("e\u0301\u0308x\u200D"), "e\u0301\u0308|x\u200D");
  EXPECT_EQ(clusters("\u1100\u1161\u11A8\uAC00\u11A8\u1161"), "\u1100\u1161\u11A8|\uAC00\u11A8|\u1161");
  EXPECT_EQ(clusters("\U0001F1E9\U0001F1EA\U0001F1EB"), "\U0001F1E9\U0001F1EA|\U0001F1EB");
  EXPECT_EQ(clusters("\U0001F469\U0001F3FD\u200D\U0001F680x"), "\U0001F469\U0001F3FD\u200D\U0001F680|x");
  EXPECT_EQ(clusters("\u0600a\u0E01\u0E33"), "\u0600a|\u0E01\u0E33");
}

}  // namespace
}  // namespace polylora
