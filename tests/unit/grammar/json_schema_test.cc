#include "grammar/json_schema.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "grammar/json_grammar.h"
#include "grammar_testing.h"

namespace polylora::grammar {
namespace {

using Json = nlohmann::ordered_json;

Grammar of(std::string_view schema) {
  return schema_grammar(Json::parse(schema));
}

struct Case {
  const char* schema;
  std::vector<std::string> yes, no;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {R"({"type":"string"})",
       {R"("")", R"("a\n\"é😀\u00e9")"},
       {R"(")", R"("a"b)", "\"\n\"", R"("\ud800")", "1"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", R"("é\n")", R"("abc")"},
       {R"("a")", R"("abcd")"}},
      {R"({"type":"string","pattern":"^[A-Z]{3}$"})", {R"("ABC")"}, {R"("AB")", R"("abc")"}},
      {R"({"type":"string","format":"date"})",
       {R"("2024-12-31")"},
       {R"("2024-13-01")", R"("2024-02-30")", R"("x")"}},
      {R"({"type":"string","format":"date-time"})",
       {R"("2024-02-03T01:02:03Z")", R"("2024-02-03T01:02:03.5+01:00")"},
       {R"("2024-02-03")"}},
      {R"({"type":"string","format":"time"})", {R"("23:59:59Z")"}, {R"("24:00:00Z")"}},
      {R"({"type":"string","format":"uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123")"}},
      {R"({"type":"string","format":"email"})", {R"("a.b@c.org")"}, {R"("a")", R"("@c")"}},
      {R"({"type":"string","format":"ipv4"})", {R"("127.0.0.1")"}, {R"("256.0.0.1")", R"("01.0.0.1")"}},
      {R"({"type":"string","format":"uri"})", {R"("https://a.org/b?c=d#e")"}, {R"("a b")"}},
      {R"({"type":"integer"})", {"0", "-1", "123456"}, {"01", "1.5", "-", "1e2"}},
      {R"({"type":"integer","minimum":3,"maximum":120})",
       {"3", "9", "10", "99", "100", "120"},
       {"2", "121", "-5", "0", "200", "03"}},
      {R"({"type":"integer","exclusiveMinimum":-12,"exclusiveMaximum":5})",
       {"-11", "-9", "0", "4"},
       {"-12", "5", "-99", "-0"}},
      {R"({"type":"integer","minimum":1})", {"1", "1000000000"}, {"0", "-1"}},
      {R"({"type":"integer","maximum":-7})", {"-7", "-70"}, {"-6", "7", "0"}},
      {R"({"type":"number"})", {"0", "-1.5", "2e10", "2.5E-3"}, {"1.", ".5", "+1", "00"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.5", "1", "1.0", "0.999"},
       {"1.1", "-0.1", "2", "1.0001"}},
      {R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":2.5})",
       {"0.001", "2.49", "1", "2.4999", "2"},
       {"0", "0.0", "2.5", "2.50", "3"}},
      {R"({"type":"number","minimum":-1.25,"maximum":-0.5})",
       {"-1.25", "-0.5", "-1", "-0.75", "-1.2"},
       {"-1.26", "-0.4", "1", "-0", "-1.3"}},
      {R"({"type":"number","minimum":2.5,"maximum":2.75})",
       {"2.5", "2.6", "2.75", "2.750"},
       {"2.4", "2.76", "2", "3"}},
      {R"({"type":"boolean"})", {"true", "false"}, {"null", "True"}},
      {R"({"type":["integer","null"]})", {"1", "null"}, {"\"a\""}},
      {R"({"enum":["a",1,null,{"b":[true]}]})", {R"("a")", "1", "null", R"({"b":[true]})"}, {R"("b")", "2"}},
      {R"({"const":"x","type":"string"})", {R"("x")"}, {R"("y")"}},
      {R"({"type":"array"})", {"[]", "[1, \"a\", {}]", "[[]]"}, {"[", "[1,]", "{}"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
       {"[1,2]", "[1, 2, 3]"},
       {"[]", "[1]", "[1,2,3,4]", "[1,\"a\"]"}},
      {R"({"type":"array","items":{"type":"integer"},"maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}]})",
       {R"([1,"a"])"},
       {R"(["a",1])", R"([1,"a",2])"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"boolean"},"maxItems":2})",
       {"[1]", "[1,true]"},
       {"[1,true,true]", "[true]"}},
      {R"({"type":"object"})", {"{}", R"({"a": {"b": [1]}})"}, {"[]", "{,}"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a","b"],"additionalProperties":false})",
       {R"({"a":1,"b":"x"})", R"({"a": 1, "b": "x"})", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
       {"{}", R"({"a":1})", R"({"b":"x","a":1})", R"({"a":1,"b":"x","c":2})"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}},"required":["b"]})",
       {R"({"b":1})", R"({"a":1,"b":1})", R"({"b":1,"c":1})", R"({"a":1,"b":1,"c":1})"},
       {"{}", R"({"a":1})", R"({"c":1})", R"({"a":1,"c":1})"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})",
       {"{}", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":1})"},
       {R"({"b":1,"a":1})", R"({"c":1})", R"({"a":1,})"}},
      {R"({"properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"boolean"}})",
       {"{}", R"({"ab":1})", R"({"x":true})", R"({"ab":1,"a":true,"abc":false,"":true})"},
       {R"({"ab":true})", R"({"x":1})", R"({"x":true,"ab":true})"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"boolean"}]})", {"1", "true"}, {"null"}},
      {R"({"type":"object","properties":{"k":{"type":"string"}},"oneOf":[{"required":["k"]}]})",
       {R"({"k":"v"})"},
       {"{}"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"null"}},"required":["b"]}]})",
       {R"({"a":1,"b":null})"},
       {R"({"a":1})", R"({"b":null})"}},
      {R"({"allOf":[{"type":"integer","minimum":1},{"maximum":9}]})", {"1", "9"}, {"0", "10"}},
      {R"({"$defs":{"n":{"properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["v","next"]}},"$ref":"#/$defs/n"})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"type":"array","items":{"$ref":"#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"(true)", {"1", "{}", "\"a\""}, {"", "x"}},
      {R"({"description":"anything"})", {"null", "[1]"}, {"nul"}},
  };
  return all;
}

TEST(JsonSchema, AcceptsAndRefuses) {
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.schema);
    const Grammar grammar = of(one.schema);
    for (const std::string& text : one.yes) EXPECT_TRUE(accepts(grammar, text)) << text;
    for (const std::string& text : one.no) EXPECT_FALSE(accepts(grammar, text)) << text;
  }
}

// No dead ends: whatever was allowed so far can be finished, and what comes out is JSON.
TEST(JsonSchema, EveryPathEndsInADocument) {
  int finished = 0;
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.schema);
    const Grammar grammar = of(one.schema);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const RandomText made = random_text(grammar, seed);
      if (made.text.size() >= 4000) continue;
      ASSERT_TRUE(made.finished) << made.text;
      EXPECT_TRUE(Json::accept(made.text)) << made.text;
      EXPECT_TRUE(accepts(grammar, made.text)) << made.text;
      ++finished;
    }
  }
  EXPECT_GT(finished, 500);
}

TEST(JsonSchema, NumbersStayWithinTheirBounds) {
  struct Range {
    double min, max;
  };
  for (const Range range :
       {Range{0, 1}, {-2.5, 3.75}, {0.1, 0.2}, {-7, -6.5}, {99, 1001}, {0, 1e-3}, {1.5, 1.5}}) {
    const Grammar grammar =
        schema_grammar({{"type", "number"}, {"minimum", range.min}, {"maximum", range.max}});
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const RandomText made = random_text(grammar, seed, 3);
      ASSERT_TRUE(made.finished) << made.text;
      const double value = Json::parse(made.text).get<double>();
      EXPECT_GE(value, range.min) << made.text;
      EXPECT_LE(value, range.max) << made.text;
    }
  }
}

std::string refusal(std::string_view schema) {
  try {
    Automaton automaton(of(schema));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(JsonSchema, RefusesByName) {
  const std::vector<std::pair<const char*, const char*>> refused = {
      {R"({"not":{}})", "'not'"},
      {R"({"type":"object","patternProperties":{"a":{}}})", "'patternProperties'"},
      {R"({"type":"integer","multipleOf":3})", "'multipleOf'"},
      {R"({"type":"string","format":"iri"})", "'iri'"},
      {R"({"type":"strange"})", "'strange'"},
      {R"({"type":"string","minLength":1,"pattern":"a"})", "'pattern'"},
      {R"({"type":"array","uniqueItems":true})", "'uniqueItems'"},
      {R"({"$ref":"#/$defs/x"})", "points to nothing"},
      {R"({"$ref":"http://x/y"})", "points to nothing"},
      {R"({"$ref":"#"})", "no text can match"},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "refers to itself"},
      {R"({"anyOf":[]})", "'anyOf'"},
      {R"({"enum":[]})", "'enum'"},
      {R"({"enum":["a"],"type":"integer"})", "'enum'"},
      {R"({"type":"integer","minimum":5,"maximum":4})", "no integer"},
      {R"({"type":"array","minItems":3,"maxItems":2})", "'maxItems'"},
      {R"({"type":"array","items":{},"minItems":1000000000})", "too large"},
      {R"({"type":"object","properties":{"a":false},"required":["a"]})", "no text can match"},
      {R"({"allOf":[{"$ref":"#"}]})", "nests deeper"},
      {R"([])", "object or a boolean"},
  };
  for (const auto& [schema, words] : refused)
    EXPECT_NE(refusal(schema).find(words), std::string::npos) << schema << ": " << refusal(schema);
}

TEST(JsonSchema, AnyObject) {
  const Grammar grammar = json_object_grammar();
  EXPECT_TRUE(accepts(grammar, R"({"a": [1, {"b": null}], "c": "d"})"));
  EXPECT_FALSE(accepts(grammar, "[]"));
}

}  // namespace
}  // namespace polylora::grammar
