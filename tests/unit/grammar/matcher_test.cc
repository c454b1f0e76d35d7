#include "grammar/matcher.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "grammar/json_grammar.h"
#include "grammar/regex_grammar.h"

namespace polylora::grammar {
namespace {

/// All single bytes, then words; the token 256 is special.
std::shared_ptr<const TokenTrie> vocabulary() {
  static const std::vector<std::string> words = {"",   "{\"", "\": ",  "\"}", "abc", "ab",
                                                 "[]", "é",   "abc\"", "}}",  "ab"};
  return std::make_shared<TokenTrie>(256 + static_cast<int>(words.size()), [](int32_t id) {
    return id < 256 ? std::string(1, static_cast<char>(id)) : words[static_cast<size_t>(id) - 256];
  });
}

bool allows(const TokenMask& mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
}

Grammar regex(std::string_view pattern) {
  Grammar grammar;
  grammar.add(regex_expression(pattern, RegexMatch::kWhole, TextForm::kPlain));
  return grammar;
}

// The walk over the trie against every token on its own, along random outputs.
TEST(Matcher, AllowsExactlyTheTokensThatItTakes) {
  const auto trie = vocabulary();
  std::vector<Grammar> grammars = {json_object_grammar(), regex("(ab|abc)*x[é-ü]?"),
                                   choice_grammar({"abc", "ab", "é"})};
  for (const Grammar& grammar : grammars) {
    const auto compiled = std::make_shared<CompiledGrammar>(grammar, trie);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      std::mt19937_64 random(seed);
      Matcher matcher(compiled);
      for (int step = 0; step < 30; ++step) {
        const auto mask = matcher.allowed();
        std::vector<int32_t> allowed;
        for (int32_t token = 0; token < trie->vocab_size(); ++token) {
          Matcher copy = matcher;
          ASSERT_EQ(copy.advance(token), allows(*mask, token)) << "token " << token;
          if (allows(*mask, token)) allowed.push_back(token);
        }
        EXPECT_EQ(allowed.empty(), matcher.must_end());
        if (allowed.empty()) break;
        ASSERT_TRUE(matcher.advance(allowed[random() % allowed.size()]));
      }
    }
  }
}

TEST(Matcher, KnowsWhenTheTextIsComplete) {
  Matcher matcher(std::make_shared<CompiledGrammar>(choice_grammar({"ab", "abc"}), vocabulary()));
  EXPECT_FALSE(matcher.may_end());
  ASSERT_TRUE(matcher.advance(261));  // ab
  EXPECT_TRUE(matcher.may_end());
  EXPECT_FALSE(matcher.must_end());
  EXPECT_FALSE(matcher.advance('x'));
  EXPECT_FALSE(matcher.advance(256));
  EXPECT_FALSE(matcher.advance(-1));
  EXPECT_FALSE(matcher.advance(100'000));
  ASSERT_TRUE(matcher.advance('c'));
  EXPECT_TRUE(matcher.must_end());
}

// What one request made the shared cache learn, or forget, must not show in another's masks.
TEST(Matcher, DoesNotDependOnWhatOthersAskedFor) {
  const auto trie = vocabulary();
  const Grammar grammar = regex("(a|b|ab|[é-ü]){0,3000}c");
  const auto shared = std::make_shared<CompiledGrammar>(grammar, trie);
  Matcher others(shared);
  Matcher late(shared), alone(std::make_shared<CompiledGrammar>(grammar, trie));
  for (int step = 0; step < 700; ++step) {  // enough to fill the cache more than once
    others.allowed();
    ASSERT_TRUE(others.advance(step % 3 == 0 ? 'a' : 'b'));
    if (step % 100 != 0) continue;
    ASSERT_EQ(*late.allowed(), *alone.allowed());
    ASSERT_TRUE(late.advance('a'));
    ASSERT_TRUE(alone.advance('a'));
  }
}

TEST(Matcher, DeepNestingEndsSomewhere) {
  Matcher matcher(std::make_shared<CompiledGrammar>(json_object_grammar(), vocabulary()));
  for (const char c : std::string_view("{\"a\":")) ASSERT_TRUE(matcher.advance(c));
  int depth = 0;
  while (depth < 10'000 && matcher.advance('[')) ++depth;
  EXPECT_GT(depth, 50);
  EXPECT_LT(depth, 1000);
  for (int i = 0; i < depth; ++i) ASSERT_TRUE(matcher.advance(']'));
  ASSERT_TRUE(matcher.advance('}'));
  EXPECT_TRUE(matcher.must_end());
}

}  // namespace
}  // namespace polylora::grammar
