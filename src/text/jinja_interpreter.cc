#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_builtins.h"

namespace polylora::jinja {
namespace {

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

}  // namespace polylora::jinja
