// The expression half of the interpreter.
#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_interpreter.h"
#include "text/utf8.h"

namespace polylora::jinja {

// ---- values ----

Value Interpreter::make_string(std::string text) {
  Budget::check_string(text.size());
  budget_.allocate(text.size() + 64);
  return Value::string(std::move(text));
}

Value Interpreter::make_list(std::vector<Value> items, ListType type) {
  Budget::check_items(items.size());
  budget_.allocate(items.size() * sizeof(Value) + 64);
  return Value::list(List{std::move(items), type, 0});
}

Value Interpreter::make_namespace(std::shared_ptr<Namespace> ns) {
  budget_.allocate(256);
  namespaces_.push_back(ns);
  return Value::object(std::move(ns));
}

Value Interpreter::call(const Value& callee, Args& args) {
  if (callee.is_undefined()) template_error("{}", callee.undefined_reason());
  if (!callee.is_object()) template_error("'{}' object is not callable", callee.type_name());
  const std::shared_ptr<const Object> keep = callee.object_ref();
  return keep->call(*this, args);
}

namespace {

std::string type_repr(const Value& value) {
  return value.is_none() ? "None" : fmt::format("{} object", value.type_name());
}

Value bind_method(Builtin method, const Value& self) {
  return make_function(
      "method", [method, self](Interpreter& i, Args& args) { return method(i, self, args); }, self.depth());
}

/// Element `index` of a list or string, or null when it is out of range.
std::optional<Value> element(const Value& object, int64_t index) {
  if (object.is_list()) {
    const auto& items = object.as_list().items;
    const auto n = static_cast<int64_t>(items.size());
    if (index < 0) index += n;
    if (index < 0 || index >= n) return std::nullopt;
    return items[static_cast<size_t>(index)];
  }
  if (!object.is_string()) return std::nullopt;
  const std::string& text = object.as_string();
  if (index < 0) index += static_cast<int64_t>(utf8_length(text));
  for (size_t pos = 0; index >= 0 && pos < text.size(); --index) {
    const size_t begin = pos;
    next_code_point(text, pos);
    if (index == 0) return Value::string(text.substr(begin, pos - begin));
  }
  return std::nullopt;
}

}  // namespace

/// object.name: Python's attribute first, then the item of that name.
Value Interpreter::get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) template_error("{}", object.undefined_reason());
  if (object.is_object()) {
    if (auto value = object.as_object().attribute(name)) return *std::move(value);
  } else {
    if (const Builtin method = find_method(object, name)) return bind_method(method, object);
    if (object.is_dict()) {
      if (const Value* value = object.as_dict().find(name)) return *value;
    }
  }
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", type_repr(object), name));
}

/// object[key]: the item first, then the attribute of that name.
Value Interpreter::get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) template_error("{}", object.undefined_reason());
  if (object.is_dict()) {
    if (key.is_undefined() || (key.is_list() && key.as_list().type != ListType::kTuple) || key.is_dict()) {
      return Value::undefined("no such key");
    }
    if (const Value* value = object.as_dict().find(key)) return *value;
  } else if (key.is_integral()) {
    budget_.step(object.is_string() ? 1 + object.as_string().size() / 256 : 1);
    if (auto value = element(object, key.as_int())) return *std::move(value);
  }
  if (key.is_string()) return get_attribute(object, key.as_string());
  return Value::undefined(fmt::format("{} has no element {}", type_repr(object), to_string(key)));
}

Value Interpreter::apply_filter(std::string_view name, const Value& operand, Args& args) {
  const Builtin filter = find_filter(name);
  if (filter == nullptr) template_error("no filter named '{}'", name);
  return filter(*this, operand, args);
}

bool Interpreter::apply_test(std::string_view name, const Value& operand, Args& args) {
  const Test test = find_test(name);
  if (test == nullptr) template_error("no test named '{}'", name);
  return test(*this, operand, args);
}

// ---- expressions ----

Value Interpreter::eval(const Expr& expr) {
  const Depth depth(*this);
  budget_.step();
  line_ = expr.line;
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.value;
    case ExprKind::kName:
      return eval_name(expr);
    case ExprKind::kAttr:
      return get_attribute(eval(*expr.args[0]), *expr.name);
    case ExprKind::kCall:
      return eval_call(expr);
    case ExprKind::kFilter:
      return eval_filter(expr, eval(*expr.args[0]));
    case ExprKind::kTest:
      return eval_test(expr);
    case ExprKind::kCompare:
      return eval_compare(expr);
    case ExprKind::kIf:
      if (eval(*expr.args[1]).truthy()) return eval(*expr.args[0]);
      return expr.args[2] == nullptr ? Value::undefined("the inline if-expression has no else")
                                     : eval(*expr.args[2]);
    default:
      return eval_other(expr);
  }
}

Value Interpreter::eval_other(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kItem: {
      const Value object = eval(*expr.args[0]);
      return get_item(object, eval(*expr.args[1]));
    }
    case ExprKind::kTuple:
      return make_list(eval_all(expr), ListType::kTuple);
    case ExprKind::kList:
      return make_list(eval_all(expr));
    case ExprKind::kDict:
      return eval_dict(expr);
    case ExprKind::kSlice:
      return eval_slice(expr);
    case ExprKind::kNot:
      return Value::boolean(!eval(*expr.args[0]).truthy());
    case ExprKind::kNegate:
      return negate(eval(*expr.args[0]));
    case ExprKind::kPositive: {
      Value value = eval(*expr.args[0]);
      if (!value.is_number()) template_error("bad operand type for unary +: '{}'", value.type_name());
      return value;
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value value;
      for (const auto& arg : expr.args) {
        value = eval(*arg);
        if (value.truthy() == (expr.kind == ExprKind::kOr)) break;
      }
      return value;
    }
    case ExprKind::kBinary: {
      const Value left = eval(*expr.args[0]);
      return binary_operation(*this, expr.op, left, eval(*expr.args[1]));
    }
    case ExprKind::kConcat:
      return eval_concat(expr);
    default:
      fail(ErrorCode::kInternal, "unknown expression kind");
  }
}

Value Interpreter::eval_name(const Expr& expr) {
  if (const Value* value = scope_->find(expr.name)) return *value;
  return Value::undefined(fmt::format("'{}' is undefined", *expr.name));
}

std::vector<Value> Interpreter::eval_all(const Expr& expr, size_t from) {
  std::vector<Value> out;
  out.reserve(expr.args.size());
  for (size_t i = from; i < expr.args.size(); ++i) out.push_back(eval(*expr.args[i]));
  return out;
}

Value Interpreter::eval_dict(const Expr& expr) {
  Dict dict;
  budget_.allocate(expr.args.size() * 64 + 64);
  for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
    const Value key = eval(*expr.args[i]);
    dict.set(key, eval(*expr.args[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::eval_concat(const Expr& expr) {
  std::string text;
  for (const auto& arg : expr.args) {
    const Value part = eval(*arg);
    text += part.is_string() ? part.as_string() : to_string(part);
    Budget::check_string(text.size());
  }
  return make_string(std::move(text));
}

/// Python's slice over a list, or over the code points of a string.
Value Interpreter::eval_slice(const Expr& expr) {
  const Value object = eval(*expr.args[0]);
  const auto bound = [&](size_t i) -> std::optional<int64_t> {
    if (expr.args[i] == nullptr) return std::nullopt;
    const Value value = eval(*expr.args[i]);
    if (value.is_none()) return std::nullopt;
    if (!value.is_integral()) template_error("slice indices must be integers or None");
    return value.as_int();
  };
  const auto begin = bound(1), end = bound(2), step_given = bound(3);
  const int64_t step = step_given.value_or(1);
  if (step == 0) template_error("slice step cannot be zero");
  if (object.is_undefined()) template_error("{}", object.undefined_reason());
  if (!object.is_list() && !object.is_string()) {
    return Value::undefined(fmt::format("{} cannot be sliced", type_repr(object)));
  }
  const std::vector<Value> items = iterate(object, budget_);
  const auto n = static_cast<int64_t>(items.size());
  const auto clamp = [&](std::optional<int64_t> v, int64_t fallback) {
    if (!v) return fallback;
    const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    return std::clamp(*v < 0 ? *v + n : *v, low, high);
  };
  const int64_t from = clamp(begin, step > 0 ? 0 : n - 1), to = clamp(end, step > 0 ? n : -1);
  std::vector<Value> out;
  // The distance is compared before stepping: a huge step must not overflow.
  for (int64_t i = from; step > 0 ? i < to : i > to;) {
    out.push_back(items[static_cast<size_t>(i)]);
    const bool last = step > 0 ? to - i <= step : (step == INT64_MIN || i - to <= -step);
    if (last) break;
    i += step;
  }
  if (object.is_list()) {
    const ListType type = object.as_list().type;
    return make_list(std::move(out), type == ListType::kTuple ? type : ListType::kList);
  }
  std::string text;
  for (const Value& c : out) text += c.as_string();
  return make_string(std::move(text));
}

void Interpreter::eval_arguments(const Expr& expr, Args& args) {
  args.positional = eval_all(expr, 1);
  if (expr.star) {
    for (Value& value : iterate(eval(*expr.star), budget_)) args.positional.push_back(std::move(value));
  }
  for (const auto& [name, value] : expr.named) args.named.emplace_back(*name, eval(*value));
  if (!expr.star_star) return;
  const Value more = eval(*expr.star_star);
  if (!more.is_dict()) template_error("argument after ** must be a mapping, not {}", more.type_name());
  for (const auto& [key, value] : more.as_dict().items) {
    args.named.emplace_back(expect_string(key, "a keyword"), value);
  }
}

Value Interpreter::eval_call(const Expr& expr) {
  const Expr& callee = *expr.args[0];
  Args args;
  if (callee.kind == ExprKind::kAttr) {  // a method call needs no bound method in between
    const Value self = eval(*callee.args[0]);
    if (const Builtin method = self.is_undefined() ? nullptr : find_method(self, *callee.name)) {
      eval_arguments(expr, args);
      line_ = expr.line;
      return method(*this, self, args);
    }
    const Value target = get_attribute(self, *callee.name);
    if (target.is_undefined()) template_error("{}", target.undefined_reason());
    eval_arguments(expr, args);
    return call(target, args);
  }
  const Value target = eval(callee);
  eval_arguments(expr, args);
  line_ = expr.line;
  return call(target, args);
}

Value Interpreter::eval_filter(const Expr& expr, const Value& operand) {
  Args args;
  eval_arguments(expr, args);
  line_ = expr.line;
  return apply_filter(*expr.name, operand, args);
}

/// Filters of a block: the innermost one's operand is null and stands for `operand`.
Value Interpreter::eval_filter_chain(const Expr& chain, Value operand) {
  const Depth depth(*this);
  if (chain.args[0] != nullptr) operand = eval_filter_chain(*chain.args[0], std::move(operand));
  return eval_filter(chain, operand);
}

Value Interpreter::eval_test(const Expr& expr) {
  const Value operand = eval(*expr.args[0]);
  Args args;
  eval_arguments(expr, args);
  line_ = expr.line;
  return Value::boolean(apply_test(*expr.name, operand, args));
}

Value Interpreter::eval_compare(const Expr& expr) {
  Value left = eval(*expr.args[0]);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    Value right = eval(*expr.args[i + 1]);
    bool result = false;
    switch (expr.ops[i]) {
      case Op::kEq:
        result = equal(left, right);
        break;
      case Op::kNe:
        result = !equal(left, right);
        break;
      case Op::kLt:
        result = less(left, right);
        break;
      case Op::kGt:
        result = less(right, left);
        break;
      case Op::kLe:
        result = less(left, right) || equal(left, right);
        break;
      case Op::kGe:
        result = less(right, left) || equal(left, right);
        break;
      case Op::kIn:
        result = contains(right, left, budget_);
        break;
      default:
        result = !contains(right, left, budget_);
        break;
    }
    if (!result) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

}  // namespace polylora::jinja
