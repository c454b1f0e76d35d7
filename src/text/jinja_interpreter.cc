#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

constexpr int kMaxDepth = 1200;  // nested evaluations, macros calling macros included

class Macro final : public Object {
 public:
  Macro(const Stmt& stmt, std::shared_ptr<Scope> scope) : stmt_(stmt), scope_(std::move(scope)) {}
  std::string_view type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Args& args) const override {
    return interpreter.call_macro(stmt_, scope_, args);
  }
  std::optional<Value> attribute(std::string_view name) const override {
    if (name == "name") return Value::string(stmt_.name == nullptr ? "caller" : *stmt_.name);
    return std::nullopt;
  }

 private:
  const Stmt& stmt_;
  std::shared_ptr<Scope> scope_;
};

/// The `loop` variable. Its position moves while the loop runs.
class Loop final : public Object {
 public:
  Loop(const Stmt& stmt, const std::shared_ptr<Scope>& outer, const Value& items, int depth)
      : Object(items.depth()),
        stmt_(stmt),
        outer_(outer),
        list_(items),
        items_(list_.as_list().items),
        depth_(depth) {}

  std::string_view type_name() const override { return "LoopContext"; }
  bool callable() const override { return true; }
  void move_to(size_t index) { index_ = index; }

  std::optional<Value> attribute(std::string_view name) const override {
    const auto i = static_cast<int64_t>(index_), n = static_cast<int64_t>(items_.size());
    if (name == "index") return Value::integer(i + 1);
    if (name == "index0") return Value::integer(i);
    if (name == "revindex") return Value::integer(n - i);
    if (name == "revindex0") return Value::integer(n - i - 1);
    if (name == "first") return Value::boolean(i == 0);
    if (name == "last") return Value::boolean(i + 1 == n);
    if (name == "length") return Value::integer(n);
    if (name == "depth") return Value::integer(depth_ + 1);
    if (name == "depth0") return Value::integer(depth_);
    if (name == "previtem") return i > 0 ? items_[index_ - 1] : Value::undefined("there is no previous item");
    if (name == "nextitem") return i + 1 < n ? items_[index_ + 1] : Value::undefined("there is no next item");
    if (name == "cycle") return cycle();
    if (name == "changed") return changed();
    return std::nullopt;
  }

  Value call(Interpreter& interpreter, Args& args) const override {
    if (!stmt_.recursive) template_error("the loop must have the 'recursive' marker to be called");
    if (args.positional.size() != 1) template_error("loop() takes the items to walk over");
    const std::shared_ptr<Scope> outer = outer_.lock();
    if (outer == nullptr) template_error("loop() is called after the loop's end");
    return interpreter.run_recursive_loop(stmt_, outer, args.positional[0], depth_ + 1);
  }

 private:
  Value cycle() const {
    return make_function("cycle", [index = index_](Interpreter&, Args& args) {
      if (args.positional.empty()) template_error("no items for cycling given");
      return args.positional[index % args.positional.size()];
    });
  }

  Value changed() const {
    // Remembers the values as text: holding them could chain loops to each other without end.
    return make_function("changed", [last = last_](Interpreter& interpreter, Args& args) {
      std::string now;
      for (const Value& value : args.positional) {
        append_repr(now, value);
        now += ',';
      }
      interpreter.budget().allocate(now.size());
      const bool same = last->has_value() && **last == now;
      *last = std::move(now);
      return Value::boolean(!same);
    });
  }

  const Stmt& stmt_;
  std::weak_ptr<Scope> outer_;  // weak: a loop kept in a namespace must not keep its surroundings
  Value list_;
  const std::vector<Value>& items_;
  int depth_;
  size_t index_ = 0;
  std::shared_ptr<std::optional<std::string>> last_ = std::make_shared<std::optional<std::string>>();
};

}  // namespace

const Value* Scope::find(Name name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [key, value] : scope->variables) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(Name name, Value value) {
  for (auto& [key, old] : variables) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  variables.emplace_back(name, std::move(value));
}

std::optional<Value> Namespace::attribute(std::string_view name) const {
  for (const auto& [key, value] : attributes_) {
    if (key == name) return value;
  }
  return std::nullopt;
}

void Namespace::set(std::string_view name, Value value) const {
  for (auto& [key, old] : attributes_) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  attributes_.emplace_back(name, std::move(value));
}

/// One level of recursion.
class Interpreter::Depth {
 public:
  explicit Depth(Interpreter& interpreter) : interpreter_(interpreter) {
    if (interpreter_.depth_ >= kMaxDepth) {
      fail(ErrorCode::kResourceExhausted, "the chat template recurses too deeply");
    }
    ++interpreter_.depth_;
  }
  ~Depth() { --interpreter_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  Interpreter& interpreter_;
};

Interpreter::Interpreter(const Template& source, std::function<std::tm()> clock)
    : template_(source), clock_(std::move(clock)), scope_(std::make_shared<Scope>(nullptr)) {
  define_globals(*this);
}

Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) ns->clear();
  for (const auto& scope : captured_) scope->variables.clear();
}

void Interpreter::define(const std::string& name, Value value) {
  if (const Name known = template_.names.find(name)) scope_->set(known, std::move(value));
}

std::string Interpreter::run() {
  std::string out;
  out_ = &out;
  scope_ = std::make_shared<Scope>(scope_);
  try {
    exec_body(template_.body);
  } catch (const RaisedError&) {
    throw;
  } catch (const Error& e) {
    fail(e.code(), "chat template, line {}: {}", line_, e.what());
  }
  return out;
}

// ---- statements ----

void Interpreter::emit(std::string_view text) {
  Budget::check_string(out_->size() + text.size());
  out_->append(text);
}

std::string Interpreter::capture(const Body& body) {
  std::string text;
  std::string* const outer_out = std::exchange(out_, &text);
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>(outer);
  struct Restore {  // also when an Error passes
    Interpreter& self;
    std::string* out;
    const std::shared_ptr<Scope>& scope;
    ~Restore() {
      self.out_ = out;
      self.scope_ = scope;
    }
  } const restore{*this, outer_out, outer};
  exec_body(body);
  return text;
}

Interpreter::Flow Interpreter::exec_body(const Body& body) {
  for (const auto& stmt : body) {
    if (const Flow flow = exec(*stmt); flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec(const Stmt& stmt) {
  const Depth depth(*this);
  budget_.step();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      emit(stmt.text);
      return Flow::kNormal;
    case StmtKind::kOutput: {
      const Value value = eval(*stmt.exprs[0]);
      if (value.is_string()) {
        emit(value.as_string());
      } else {
        emit(to_string(value));
      }
      return Flow::kNormal;
    }
    case StmtKind::kIf:
      return exec_if(stmt);
    case StmtKind::kFor:
      exec_for(stmt, loop_items(stmt, eval(*stmt.exprs[0])), 0);
      return Flow::kNormal;
    case StmtKind::kSet:
    case StmtKind::kSetBlock:
      exec_set(stmt);
      return Flow::kNormal;
    case StmtKind::kMacro:
      scope_->set(stmt.name, make_macro(stmt));
      return Flow::kNormal;
    case StmtKind::kCallBlock:
      exec_call_block(stmt);
      return Flow::kNormal;
    case StmtKind::kFilterBlock:
      exec_filter_block(stmt);
      return Flow::kNormal;
    case StmtKind::kWith:
    case StmtKind::kScope:
      return exec_with(stmt);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_if(const Stmt& stmt) {
  for (size_t i = 0; i < stmt.exprs.size(); ++i) {
    if (eval(*stmt.exprs[i]).truthy()) return exec_body(stmt.bodies[i]);
  }
  return stmt.bodies.size() > stmt.exprs.size() ? exec_body(stmt.bodies.back()) : Flow::kNormal;
}

/// The items that pass the loop's own condition, which sees the loop variable but not `loop`.
std::vector<Value> Interpreter::loop_items(const Stmt& stmt, const Value& iterable) {
  std::vector<Value> items = iterate(iterable, budget_);
  if (stmt.exprs[1] == nullptr) return items;
  const std::shared_ptr<Scope> outer = scope_;
  std::vector<Value> kept;
  for (Value& item : items) {
    scope_ = std::make_shared<Scope>(outer);
    assign(stmt.targets[0], item);
    if (eval(*stmt.exprs[1]).truthy()) kept.push_back(std::move(item));
  }
  scope_ = outer;
  return kept;
}

void Interpreter::exec_for(const Stmt& stmt, std::vector<Value> all, int depth) {
  const Value list = make_list(std::move(all));
  const std::vector<Value>& items = list.as_list().items;
  const std::shared_ptr<Scope> outer = scope_;
  const Name loop_name = template_.names.find("loop");
  if (items.empty()) {
    if (stmt.bodies.size() < 2) return;
    scope_ = std::make_shared<Scope>(outer);
    exec_body(stmt.bodies[1]);
    scope_ = outer;
    return;
  }
  const auto loop = std::make_shared<Loop>(stmt, outer, list, depth);
  scope_ = std::make_shared<Scope>(outer);
  for (size_t i = 0; i < items.size(); ++i) {
    budget_.step();
    if (scope_.use_count() > 1) {  // a macro kept the last turn's variables
      scope_ = std::make_shared<Scope>(outer);
    } else {
      scope_->variables.clear();
    }
    loop->move_to(i);
    scope_->set(loop_name, Value::object(loop));
    assign(stmt.targets[0], items[i]);
    if (exec_body(stmt.bodies[0]) == Flow::kBreak) break;
  }
  scope_ = outer;
}

Value Interpreter::run_recursive_loop(const Stmt& loop, const std::shared_ptr<Scope>& outer,
                                      const Value& items, int depth) {
  const Depth level(*this);
  std::string text;
  std::string* const outer_out = std::exchange(out_, &text);
  const std::shared_ptr<Scope> caller = std::exchange(scope_, outer);
  exec_for(loop, loop_items(loop, items), depth);  // an Error ends the whole render: no need to restore
  scope_ = caller;
  out_ = outer_out;
  return make_string(std::move(text));
}

void Interpreter::assign(const Target& target, Value value) {
  if (!target.parts.empty()) {
    const std::vector<Value> values = iterate(value, budget_);
    if (values.size() != target.parts.size()) {
      template_error("cannot unpack {} values into {} names", values.size(), target.parts.size());
    }
    for (size_t i = 0; i < values.size(); ++i) assign(target.parts[i], values[i]);
    return;
  }
  if (target.attribute == nullptr) {
    scope_->set(target.name, std::move(value));
    return;
  }
  const Value* holder = scope_->find(target.name);
  const auto* ns = holder != nullptr && holder->is_object()
                       ? dynamic_cast<const Namespace*>(&holder->as_object())
                       : nullptr;
  if (ns == nullptr) template_error("cannot assign attribute on non-namespace object '{}'", *target.name);
  budget_.allocate(64);
  ns->set(*target.attribute, std::move(value));
}

void Interpreter::exec_set(const Stmt& stmt) {
  Value value;
  if (stmt.kind == StmtKind::kSet) {
    value = eval(*stmt.exprs[0]);
  } else {
    value = make_string(capture(stmt.bodies[0]));
    if (!stmt.exprs.empty()) value = eval_filter_chain(*stmt.exprs[0], std::move(value));
  }
  assign(stmt.targets[0], std::move(value));
}

Interpreter::Flow Interpreter::exec_with(const Stmt& stmt) {
  std::vector<Value> values;
  for (const auto& expr : stmt.exprs) values.push_back(eval(*expr));
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>(outer);
  for (size_t i = 0; i < values.size(); ++i) assign(stmt.targets[i], values[i]);
  const Flow flow = exec_body(stmt.bodies[0]);
  scope_ = outer;
  return flow;
}

void Interpreter::exec_call_block(const Stmt& stmt) {
  const Expr& call_expr = *stmt.exprs[0];
  Args args;
  const Value callee = eval(*call_expr.args[0]);
  eval_arguments(call_expr, args);
  args.named.emplace_back("caller", make_macro(stmt));
  emit(to_string(call(callee, args)));
}

void Interpreter::exec_filter_block(const Stmt& stmt) {
  emit(to_string(eval_filter_chain(*stmt.exprs[0], make_string(capture(stmt.bodies[0])))));
}

Value Interpreter::make_macro(const Stmt& stmt) {
  budget_.allocate(128);
  if (captured_.empty() || captured_.back() != scope_) captured_.push_back(scope_);
  return Value::object(std::make_shared<Macro>(stmt, scope_));
}

Value Interpreter::call_macro(const Stmt& macro, const std::shared_ptr<Scope>& outer, Args& args) {
  const Depth level(*this);
  const std::shared_ptr<Scope> caller_scope = std::exchange(scope_, std::make_shared<Scope>(outer));
  const auto named = [&](const std::string& name) -> const Value* {
    const auto it =
        std::find_if(args.named.begin(), args.named.end(), [&](const auto& n) { return n.first == name; });
    return it == args.named.end() ? nullptr : &it->second;
  };
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& p = macro.parameters[i];
    if (i < args.positional.size()) {
      scope_->set(p.name, args.positional[i]);
    } else if (const Value* value = named(*p.name)) {
      scope_->set(p.name, *value);
    } else if (p.fallback != nullptr) {
      scope_->set(p.name, eval(*p.fallback));
    } else {
      scope_->set(p.name, Value::undefined(fmt::format("parameter '{}' was not provided", *p.name)));
    }
  }
  const size_t taken = std::min(macro.parameters.size(), args.positional.size());
  scope_->set(template_.names.find("varargs"),
              make_list({args.positional.begin() + static_cast<std::ptrdiff_t>(taken), args.positional.end()},
                        ListType::kTuple));
  Dict rest;
  for (const auto& argument : args.named) {
    const std::string& name = argument.first;
    const bool parameter = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                       [&](const Parameter& p) { return *p.name == name; });
    if (!parameter && name != "caller") rest.set(Value::string(name), argument.second);
  }
  scope_->set(template_.names.find("kwargs"), Value::dict(std::move(rest)));
  if (const Value* value = named("caller")) scope_->set(template_.names.find("caller"), *value);
  std::string text = capture(macro.bodies[0]);
  scope_ = caller_scope;
  return make_string(std::move(text));
}

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
