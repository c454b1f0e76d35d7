#include "grammar/json_grammar.h"

#include <map>
#include <utility>

#include "grammar/number_range.h"
#include "grammar/text_form.h"
#include "text/utf8.h"

namespace polylora::grammar {
namespace {

constexpr size_t kMaxBlanks = 20;

Expr digits(size_t min, size_t max) {
  return repeat(byte_range('0', '9'), min, max);
}

Expr hex(char first, char last) {
  return byte_range(static_cast<uint8_t>(first), static_cast<uint8_t>(last));
}

/// \uXXXX, but for surrogates: half of a pair is no character.
Expr unicode_escape() {
  const Expr any = any_of({hex('0', '9'), hex('a', 'f'), hex('A', 'F')});
  const Expr d = any_of({literal("d"), literal("D")});
  const Expr not_d = any_of({hex('0', '9'), hex('a', 'c'), hex('A', 'C'), hex('e', 'f'), hex('E', 'F')});
  return sequence({literal("\\u"), any_of({sequence({not_d, any}), sequence({d, hex('0', '7')})}), any, any});
}

Expr string_character() {
  std::vector<Expr> ways = {character(json_plain_characters()), unicode_escape()};
  for (const char c : std::string_view("\"\\/bfnrt")) ways.push_back(literal(std::string{'\\', c}));
  return any_of(std::move(ways));
}

/// Strings of plain characters that are none of `names`, all of which begin with the same characters; `at`
/// bytes are read.
Expr except(const std::vector<std::string_view>& names, size_t at) {
  std::map<char32_t, std::vector<std::string_view>> by_next;
  bool is_name = false;
  for (const std::string_view name : names) {
    size_t position = at;
    if (position == name.size()) {
      is_name = true;
    } else {
      by_next[next_code_point(name, position)].push_back(name);
    }
  }
  CodePointSet others = json_plain_characters();
  std::vector<Expr> ways;
  for (const auto& [code_point, longer] : by_next) {
    others = others.without({{code_point, code_point}});
    std::string spelled;
    append_utf8(spelled, code_point);
    if (json_plain_characters().contains(code_point))
      ways.push_back(sequence({literal(spelled), except(longer, at + spelled.size())}));
  }
  ways.push_back(sequence({character(others), repeat(character(json_plain_characters()), 0)}));
  if (!is_name) ways.push_back(literal(""));
  return any_of(std::move(ways));
}

}  // namespace

Expr json_space() {
  static const Expr space =
      any_of({literal(""), literal(" "),
              sequence({literal("\n"), repeat(any_of({literal(" "), literal("\t")}), 0, kMaxBlanks)})});
  return space;
}

Expr json_quoted(Expr inside) {
  return sequence({literal("\""), std::move(inside), literal("\"")});
}

Expr json_string(size_t min, std::optional<size_t> max) {
  return json_quoted(repeat(string_character(), min, max));
}

Expr json_string_except(const std::vector<std::string>& names) {
  return json_quoted(except({names.begin(), names.end()}, 0));
}

Expr json_integer() {
  const Expr natural = any_of({literal("0"), sequence({byte_range('1', '9'), digits(0, kMaxDigits - 1)})});
  return sequence({optional(literal("-")), natural});
}

Expr json_number() {
  const Expr sign = optional(any_of({literal("+"), literal("-")}));
  return sequence({json_integer(), optional(sequence({literal("."), digits(1, kMaxDigits)})),
                   optional(sequence({any_of({literal("e"), literal("E")}), sign, digits(1, 2)}))});
}

Expr json_boolean() {
  return any_of({literal("true"), literal("false")});
}

Expr json_array(Expr items) {
  return sequence({literal("["), json_space(), std::move(items), json_space(), literal("]")});
}

Expr json_object(Expr members) {
  return sequence({literal("{"), json_space(), std::move(members), json_space(), literal("}")});
}

Expr json_after_comma(Expr part) {
  return sequence({literal(","), json_space(), std::move(part)});
}

Expr json_list(Expr part, size_t min, std::optional<size_t> max) {
  if (max == 0) return literal("");
  const std::optional<size_t> more = max ? std::optional(*max - 1) : std::nullopt;
  Expr list = sequence({part, repeat(json_after_comma(part), min > 0 ? min - 1 : 0, more)});
  return min == 0 ? optional(std::move(list)) : list;
}

Expr json_member(Expr key, Expr value) {
  return sequence({std::move(key), literal(":"), json_space(), std::move(value)});
}

JsonRules add_json_rules(Grammar& grammar) {
  const JsonRules rules{grammar.reserve(), grammar.reserve()};
  const Expr value = rule(rules.value);
  grammar.rules[rules.object] = json_object(json_list(json_member(json_string(), value), 0, std::nullopt));
  grammar.rules[rules.value] = any_of({json_string(), json_number(), json_boolean(), literal("null"),
                                       rule(rules.object), json_array(json_list(value, 0, std::nullopt))});
  return rules;
}

Grammar json_object_grammar() {
  Grammar grammar;
  const size_t root = grammar.reserve();
  grammar.rules[root] = rule(add_json_rules(grammar).object);
  return grammar;
}

}  // namespace polylora::grammar
