// Walks a template's syntax tree and produces its text.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "text/jinja_ast.h"

namespace polylora::jinja {

/// What raise_exception throws: its message reaches the caller unchanged.
class RaisedError : public Error {
 public:
  explicit RaisedError(const std::string& message) : Error(ErrorCode::kInvalidArgument, message) {}
};

/// Variables of one block; looks outwards through its parents.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)) {}
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<Name, Value>> variables;

  const Value* find(Name name) const;
  void set(Name name, Value value);
};

/// `namespace(…)`: the one thing a template can change.
class Namespace final : public Object {
 public:
  std::string_view type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) const override;
  void set(std::string_view name, Value value) const;
  void clear() const { attributes_.clear(); }

 private:
  mutable std::vector<std::pair<std::string, Value>> attributes_;
};

/// One render. Not thread-safe; the template must outlive it. Every way a template can be hostile (endless
/// loops and recursion, huge or deeply nested values) ends in an Error.
class Interpreter {
 public:
  Interpreter(const Template& source, std::function<std::tm()> clock);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// Defines a variable of the template's context; names the template does not mention are dropped.
  void define(const std::string& name, Value value);

  /// Throws kInvalidArgument / kResourceExhausted with the line; RaisedError for raise_exception.
  std::string run();

  // For builtins, macros and loops:
  Budget& budget() { return budget_; }
  std::tm now() const { return clock_(); }
  Value call(const Value& callee, Args& args);
  Value get_attribute(const Value& object, std::string_view name);
  Value get_item(const Value& object, const Value& key);
  Value apply_filter(std::string_view name, const Value& operand, Args& args);
  bool apply_test(std::string_view name, const Value& operand, Args& args);
  Value call_macro(const Stmt& macro, const std::shared_ptr<Scope>& outer, Args& args);
  Value run_recursive_loop(const Stmt& loop, const std::shared_ptr<Scope>& outer, const Value& items,
                           int depth);
  Value make_namespace(std::shared_ptr<Namespace> ns);
  /// A new string, charged to the budget.
  Value make_string(std::string text);
  /// A new list, charged to the budget.
  Value make_list(std::vector<Value> items, ListType type = ListType::kList);

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  static constexpr int kMaxDepth = 1200;  // nested evaluations, macros calling macros included

  /// One level of recursion.
  class Depth {
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

  Flow exec_body(const Body& body);
  Flow exec(const Stmt& stmt);
  Flow exec_if(const Stmt& stmt);
  void exec_for(const Stmt& stmt, std::vector<Value> all, int depth);
  std::vector<Value> loop_items(const Stmt& stmt, const Value& iterable);
  void exec_set(const Stmt& stmt);
  Flow exec_with(const Stmt& stmt);
  void exec_call_block(const Stmt& stmt);
  void exec_filter_block(const Stmt& stmt);
  std::string capture(const Body& body);
  void assign(const Target& target, Value value);
  void emit(std::string_view text);

  Value eval(const Expr& expr);
  Value eval_other(const Expr& expr);
  Value eval_name(const Expr& expr);
  Value eval_dict(const Expr& expr);
  Value eval_slice(const Expr& expr);
  Value eval_call(const Expr& expr);
  Value eval_filter(const Expr& expr, const Value& operand);
  Value eval_test(const Expr& expr);
  Value eval_compare(const Expr& expr);
  Value eval_concat(const Expr& expr);
  Value eval_filter_chain(const Expr& chain, Value operand);
  Value make_macro(const Stmt& stmt);
  void eval_arguments(const Expr& expr, Args& args);
  std::vector<Value> eval_all(const Expr& expr, size_t from = 0);

  const Template& template_;
  std::function<std::tm()> clock_;
  Budget budget_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  int depth_ = 0;
  int line_ = 0;
  // Namespaces and captured scopes can refer to themselves: emptied at the end so that nothing leaks.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> captured_;
};

/// +, -, *, /, //, %, ** as Python's.
Value binary_operation(Interpreter& interpreter, Op op, const Value& left, const Value& right);
Value negate(const Value& value);

}  // namespace polylora::jinja
