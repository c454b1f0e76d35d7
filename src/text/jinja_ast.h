// The syntax tree of a template. Built by the parser with bounded depth, immutable afterwards.
#pragma once

#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace polylora::jinja {

/// Names are interned per template: equal names have equal pointers.
using Name = const std::string*;

class Names {
 public:
  Name intern(std::string_view name) { return &*set_.emplace(name).first; }
  /// Null when the template never mentions the name.
  Name find(const std::string& name) const {
    const auto it = set_.find(name);
    return it == set_.end() ? nullptr : &*it;
  }

 private:
  std::unordered_set<std::string> set_;
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConst,   // value
  kName,    // name
  kTuple,   // args
  kList,    // args
  kDict,    // args: key, value, key, value, …
  kAttr,    // args[0] . name
  kItem,    // args[0] [ args[1] ]
  kSlice,   // args[0] [ args[1] : args[2] : args[3] ], absent ones null
  kCall,    // args[0] ( args[1…], named, star, star_star )
  kFilter,  // args[0] | name(args[1…], …)
  kTest,    // args[0] is name(args[1…], …)
  kNot,
  kNegate,
  kPositive,
  kAnd,
  kOr,
  kIf,       // args[0] if args[1] else args[2] (may be null)
  kBinary,   // args[0] op args[1]
  kConcat,   // args joined as text
  kCompare,  // args[0] ops[0] args[1] ops[1] args[2] …
};

enum class Op { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr {
  ExprKind kind = ExprKind::kConst;
  int line = 0;
  int depth = 1;
  Op op = Op::kAdd;
  Name name = nullptr;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<Name, ExprPtr>> named;
  ExprPtr star, star_star;
  std::vector<Op> ops;
};

/// The left side of an assignment: one name, a namespace's attribute, or several targets.
struct Target {
  Name name = nullptr;
  Name attribute = nullptr;   // name.attribute when set
  std::vector<Target> parts;  // not empty: unpack
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  kText,         // text
  kOutput,       // exprs[0]
  kFor,          // target in exprs[0] if exprs[1] (may be null), recursive; body, else bodies[1]
  kIf,           // exprs[i] -> bodies[i]; one body more is the else
  kSet,          // target = exprs[0]
  kSetBlock,     // target = body, through exprs (filters of a null operand)
  kMacro,        // name, parameters; bodies[0]
  kCallBlock,    // exprs[0] is the call; parameters and bodies[0] the caller
  kFilterBlock,  // exprs[0] (filter chain of a null operand) over bodies[0]
  kWith,         // targets = exprs; bodies[0]
  kScope,        // bodies[0] in its own scope (block, generation)
  kBreak,
  kContinue,
};

struct Parameter {
  Name name = nullptr;
  ExprPtr fallback;  // null: undefined when not given
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  std::string text;
  Name name = nullptr;
  bool recursive = false;
  std::vector<Target> targets;
  std::vector<ExprPtr> exprs;
  std::vector<Parameter> parameters;
  std::vector<Body> bodies;
};

struct Template {
  Names names;
  Body body;
};

}  // namespace polylora::jinja
