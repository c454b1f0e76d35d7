// Python's arithmetic on values. Integers are 64 bits; leaving them is an Error.
#include <algorithm>
#include <cmath>

#include "text/jinja_builtins.h"

namespace polylora::jinja {
namespace {

std::string_view spelled(Op op) {
  switch (op) {
    case Op::kAdd:
      return "+";
    case Op::kSub:
      return "-";
    case Op::kMul:
      return "*";
    case Op::kDiv:
      return "/";
    case Op::kFloorDiv:
      return "//";
    case Op::kMod:
      return "%";
    default:
      return "**";
  }
}

[[noreturn]] void overflow() {
  template_error("integer overflow");
}

int64_t floor_div(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) overflow();
  return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

Value integer_operation(Op op, int64_t a, int64_t b) {
  int64_t out = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kSub:
      if (__builtin_sub_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kMul:
      if (__builtin_mul_overflow(a, b, &out)) overflow();
      return Value::integer(out);
    case Op::kDiv:
      if (b == 0) template_error("division by zero");
      return Value::number(static_cast<double>(a) / static_cast<double>(b));
    case Op::kFloorDiv:
      if (b == 0) template_error("integer division or modulo by zero");
      return Value::integer(floor_div(a, b));
    case Op::kMod:
      if (b == 0) template_error("integer division or modulo by zero");
      if (b == -1) return Value::integer(0);
      return Value::integer(a - floor_div(a, b) * b);
    default:
      if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
      return Value::integer(power(a, b));
  }
}

Value float_operation(Op op, double a, double b) {
  if (b == 0 && (op == Op::kDiv || op == Op::kFloorDiv || op == Op::kMod))
    template_error("float division by zero");
  switch (op) {
    case Op::kAdd:
      return Value::number(a + b);
    case Op::kSub:
      return Value::number(a - b);
    case Op::kMul:
      return Value::number(a * b);
    case Op::kDiv:
      return Value::number(a / b);
    case Op::kFloorDiv:
      return Value::number(std::floor(a / b));
    case Op::kMod: {
      const double r = std::fmod(a, b);
      return Value::number(r != 0 && (r < 0) != (b < 0) ? r + b : r);
    }
    default:
      return Value::number(std::pow(a, b));
  }
}

Value repeat(Interpreter& interpreter, const Value& value, int64_t count) {
  const auto times = static_cast<uint64_t>(count > 0 ? count : 0);
  if (value.is_string()) {
    const std::string& unit = value.as_string();
    if (!unit.empty() && times > Budget::kMaxString / unit.size())
      Budget::check_string(Budget::kMaxString + 1);
    std::string out;
    for (uint64_t i = 0; i < times && !unit.empty(); ++i) out += unit;
    return interpreter.make_string(std::move(out));
  }
  const List& list = value.as_list();
  if (!list.items.empty())
    Budget::check_items(std::min<uint64_t>(times, Budget::kMaxItems + 1) * list.items.size());
  std::vector<Value> out;
  for (uint64_t i = 0; i < times && !list.items.empty(); ++i) {
    out.insert(out.end(), list.items.begin(), list.items.end());
  }
  return interpreter.make_list(std::move(out), list.type);
}

Value add_sequences(Interpreter& interpreter, const Value& a, const Value& b) {
  if (a.is_string()) {
    if (!b.is_string()) template_error("can only concatenate str (not \"{}\") to str", b.type_name());
    return interpreter.make_string(a.as_string() + b.as_string());
  }
  if (!b.is_list() || b.as_list().type != a.as_list().type) {
    template_error("can only concatenate {} (not \"{}\") to {}", a.type_name(), b.type_name(), a.type_name());
  }
  Budget::check_items(a.as_list().items.size() + b.as_list().items.size());
  std::vector<Value> out = a.as_list().items;
  out.insert(out.end(), b.as_list().items.begin(), b.as_list().items.end());
  return interpreter.make_list(std::move(out), a.as_list().type);
}

bool is_sequence(const Value& v) {
  return v.is_string() ||
         (v.is_list() && (v.as_list().type == ListType::kList || v.as_list().type == ListType::kTuple));
}

}  // namespace

Value binary_operation(Interpreter& interpreter, Op op, const Value& a, const Value& b) {
  if (a.is_undefined()) template_error("{}", a.undefined_reason());
  if (op == Op::kMod && a.is_string()) return interpreter.make_string(percent_format(a.as_string(), b));
  if (b.is_undefined()) template_error("{}", b.undefined_reason());
  if (a.is_integral() && b.is_integral()) return integer_operation(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return float_operation(op, a.as_double(), b.as_double());
  if (op == Op::kAdd && is_sequence(a)) return add_sequences(interpreter, a, b);
  if (op == Op::kMul && is_sequence(a) && b.is_integral()) return repeat(interpreter, a, b.as_int());
  if (op == Op::kMul && is_sequence(b) && a.is_integral()) return repeat(interpreter, b, a.as_int());
  template_error("unsupported operand type(s) for {}: '{}' and '{}'", spelled(op), a.type_name(),
                 b.type_name());
}

Value negate(const Value& value) {
  if (value.is_integral()) {
    if (value.as_int() == INT64_MIN) overflow();
    return Value::integer(-value.as_int());
  }
  if (value.is_float()) return Value::number(-value.as_double());
  if (value.is_undefined()) template_error("{}", value.undefined_reason());
  template_error("bad operand type for unary -: '{}'", value.type_name());
}

}  // namespace polylora::jinja
