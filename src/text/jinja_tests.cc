// Tests: what stands behind `is`.
#include <unordered_map>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

const Value& operand(const Args& args) {
  const Value* value = args.get(0, "other");
  if (value == nullptr) template_error("this test takes an argument");
  return *value;
}

int64_t whole(const Value& value) {
  if (!value.is_integral()) template_error("this test needs an integer, not {}", value.type_name());
  return value.as_int();
}

bool is_case(const Value& value, bool upper) {
  const std::string text = to_string(value);
  bool seen = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t cp = next_code_point(text, pos);
    if (upper ? is_lower(cp) : is_upper(cp)) return false;
    seen = seen || is_lower(cp) || is_upper(cp);
  }
  return seen;
}

bool test_eq(Interpreter&, const Value& v, Args& a) {
  return equal(v, operand(a));
}
bool test_ne(Interpreter&, const Value& v, Args& a) {
  return !equal(v, operand(a));
}
bool test_lt(Interpreter&, const Value& v, Args& a) {
  return less(v, operand(a));
}
bool test_gt(Interpreter&, const Value& v, Args& a) {
  return less(operand(a), v);
}
bool test_le(Interpreter&, const Value& v, Args& a) {
  return less(v, operand(a)) || equal(v, operand(a));
}
bool test_ge(Interpreter&, const Value& v, Args& a) {
  return less(operand(a), v) || equal(v, operand(a));
}
bool test_in(Interpreter& i, const Value& v, Args& a) {
  return contains(operand(a), v, i.budget());
}

bool test_divisible(Interpreter&, const Value& v, Args& a) {
  const Value* by = a.get(0, "num");
  const int64_t divisor = by == nullptr ? 0 : whole(*by);
  if (divisor == 0) template_error("integer modulo by zero");
  return divisor == -1 || whole(v) % divisor == 0;
}

/// `is filter` and `is test`: whether the operand names one.
bool test_filter(Interpreter&, const Value& v, Args&) {
  return v.is_string() && find_filter(v.as_string()) != nullptr;
}
bool test_test(Interpreter&, const Value& v, Args&) {
  return v.is_string() && find_test(v.as_string()) != nullptr;
}

using I = Interpreter&;
using V = const Value&;
using A = Args&;

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> table = {
      {"defined", [](I, V v, A) { return !v.is_undefined(); }},
      {"undefined", [](I, V v, A) { return v.is_undefined(); }},
      {"none", [](I, V v, A) { return v.is_none(); }},
      {"boolean", [](I, V v, A) { return v.is_bool(); }},
      {"true", [](I, V v, A) { return v.is_bool() && v.as_bool(); }},
      {"false", [](I, V v, A) { return v.is_bool() && !v.as_bool(); }},
      {"integer", [](I, V v, A) { return v.is_int(); }},
      {"float", [](I, V v, A) { return v.is_float(); }},
      {"number", [](I, V v, A) { return v.is_number(); }},
      {"string", [](I, V v, A) { return v.is_string(); }},
      {"mapping", [](I, V v, A) { return v.is_dict(); }},
      {"iterable", [](I, V v, A) { return is_iterable(v); }},
      {"sequence",
       [](I, V v, A) {
         return is_iterable(v) && !(v.is_list() && v.as_list().type == ListType::kGenerator);
       }},
      {"callable", [](I, V v, A) { return v.is_object() && v.as_object().callable(); }},
      {"escaped", [](I, V, A) { return false; }},
      {"odd", [](I, V v, A) { return whole(v) % 2 != 0; }},
      {"even", [](I, V v, A) { return whole(v) % 2 == 0; }},
      {"lower", [](I, V v, A) { return is_case(v, false); }},
      {"upper", [](I, V v, A) { return is_case(v, true); }},
      {"sameas", [](I, V v, A a) { return v.same(operand(a)); }},
      {"divisibleby", test_divisible},
      {"filter", test_filter},
      {"test", test_test},
      {"in", test_in},
      {"eq", test_eq},
      {"equalto", test_eq},
      {"==", test_eq},
      {"ne", test_ne},
      {"!=", test_ne},
      {"lt", test_lt},
      {"lessthan", test_lt},
      {"<", test_lt},
      {"gt", test_gt},
      {"greaterthan", test_gt},
      {">", test_gt},
      {"le", test_le},
      {"<=", test_le},
      {"ge", test_ge},
      {">=", test_ge},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace polylora::jinja
