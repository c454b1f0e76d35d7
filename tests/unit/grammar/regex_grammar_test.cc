#include "grammar/regex_grammar.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "grammar_testing.h"
#include "text/utf8.h"

namespace polylora::grammar {
namespace {

Grammar whole(std::string_view pattern) {
  Grammar grammar;
  grammar.add(regex_expression(pattern, RegexMatch::kWhole, TextForm::kPlain));
  return grammar;
}

Grammar json_pattern(std::string_view pattern) {
  Grammar grammar;
  grammar.add(regex_expression(pattern, RegexMatch::kAnywhere, TextForm::kJsonString));
  return grammar;
}

struct Case {
  const char* pattern;
  std::vector<std::string> yes, no;
};

TEST(RegexGrammar, MatchesTheWholeText) {
  const std::vector<Case> cases = {
      {"abc", {"abc"}, {"", "ab", "abcd"}},
      {"^abc$", {"abc"}, {"xabc"}},
      {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {"a*b+c?", {"b", "aabbc"}, {"a", "bcc"}},
      {"(ab){2,3}", {"abab", "ababab"}, {"ab", "abababab"}},
      {"a{2}", {"aa"}, {"a", "aaa"}},
      {"a{2,}", {"aa", "aaaaa"}, {"a"}},
      {"a{,2}", {"", "aa"}, {"aaa"}},
      {"a{x}", {"a{x}"}, {"a"}},
      {"[a-c_-]+", {"abc_-"}, {"d"}},
      {"[]a]", {"]", "a"}, {"b"}},
      {"[^a-c]", {"d", "é", "😀"}, {"a", "dd"}},
      {"\\d+\\.\\d", {"12.3"}, {"12x3", "."}},
      {"[\\w.]+@\\w+", {"a.b@c"}, {"a b@c"}},
      {"\\S\\s\\D", {"a b"}, {"a1b", "a 1"}},
      {"x.y", {"xéy", "x😀y"}, {"x\ny", "xy"}},
      {"[α-ω]{2}", {"αβ", "ωω"}, {"ab", "α"}},
      {"\\x41\\u00e9\\u{1F600}", {"Aé😀"}, {"Ae😀"}},
      {"(?:a|b)(?P<n>c)(?<m>d)", {"acd", "bcd"}, {"cd"}},
      {"a+?b*?", {"a", "aab"}, {"b"}},
      {"(a*)*b", {"b", "aaab"}, {"a"}},
      {"\\$\\^\\(\\\\", {"$^(\\"}, {"$"}},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.pattern);
    for (const std::string& text : one.yes) EXPECT_TRUE(accepts(whole(one.pattern), text)) << text;
    for (const std::string& text : one.no) EXPECT_FALSE(accepts(whole(one.pattern), text)) << text;
  }
}

TEST(RegexGrammar, SaysWhatItDoesNotSupport) {
  for (const char* pattern :
       {"(",     ")",   "a)",     "[a",     "*a",    "a**", "a{3,1}", "\\1", "\\b",       "(?=a)",
        "(?i)a", "a^b", "(a$|b)", "\\p{L}", "[b-a]", "a++", "\\q",    "\\",  "a{999999}", "[[:alpha:]]"}) {
    EXPECT_THROW(whole(pattern), Error) << pattern;
  }
}

TEST(RegexGrammar, APatternOfASchemaIsSearchedFor) {
  EXPECT_TRUE(accepts(json_pattern("b"), "abc"));
  EXPECT_FALSE(accepts(json_pattern("^b"), "abc"));
  EXPECT_TRUE(accepts(json_pattern("^a|c$"), "ab"));
  EXPECT_TRUE(accepts(json_pattern("^a|c$"), "bc"));
  EXPECT_FALSE(accepts(json_pattern("^a|c$"), "bd"));
}

TEST(RegexGrammar, EscapesInsideAJsonString) {
  EXPECT_TRUE(accepts(json_pattern("^a.b$"), "a\\\"b"));
  EXPECT_FALSE(accepts(json_pattern("^a.b$"), "a\"b"));
  EXPECT_TRUE(accepts(json_pattern("^\\\\$"), "\\\\"));
  EXPECT_FALSE(accepts(json_pattern("^\\\\$"), "\\"));
  EXPECT_TRUE(accepts(json_pattern("^\\s$"), "\\t"));
}

TEST(RegexGrammar, IsBounded) {
  EXPECT_THROW(Automaton(whole("((a{100}){100}){100}")), Error);
  EXPECT_THROW(whole(std::string(200, '(') + std::string(200, ')')), Error);
  EXPECT_THROW(whole(std::string(70'000, 'a')), Error);
}

TEST(RegexGrammar, EveryTextItMakesIsUtf8) {
  const Grammar grammar = whole("[^a]{1,20}");
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const RandomText made = random_text(grammar, seed);
    ASSERT_TRUE(made.finished);
    EXPECT_TRUE(is_valid_utf8(made.text));
  }
}

}  // namespace
}  // namespace polylora::grammar
