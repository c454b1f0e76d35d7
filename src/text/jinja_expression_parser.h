// The expression half of the parser; jinja_parser.cc adds the statements.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace polylora::jinja {

/// Recursive descent over the token list, one function per precedence level, loosest first.
class ExpressionParser {
 protected:
  ExpressionParser(std::vector<Token> tokens, Names& names) : tokens_(std::move(tokens)), names_(names) {}

  /// An expression, or a tuple when commas follow. `end_name` also ends it ("in", "recursive").
  ExprPtr parse_tuple(bool with_condition = true, std::string_view end_name = {}, bool parenthesised = false);
  ExprPtr parse_expression(bool with_condition = true);
  /// "name(args) | name …" with the operand left null at the innermost.
  ExprPtr parse_filter_chain(ExprPtr operand);
  void parse_call_arguments(Expr& call);

  const Token& current() const { return tokens_[pos_]; }
  const Token& ahead() const { return tokens_[pos_ + 1 < tokens_.size() ? pos_ + 1 : pos_]; }
  Token take() { return tokens_[pos_ + 1 < tokens_.size() ? pos_++ : pos_]; }
  bool is_op(std::string_view op) const {
    return current().type == TokenType::kOperator && current().value == op;
  }
  bool is_name(std::string_view n) const {
    return current().type == TokenType::kName && current().value == n;
  }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  Name expect_name();
  [[noreturn]] void error(std::string_view what) const;
  [[noreturn]] void unexpected() const;

  /// Guards one level of recursion.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  Names& names_;

 private:
  ExprPtr make(ExprKind kind) const;
  void adopt(Expr& parent, ExprPtr child) const;
  ExprPtr binary(Op op, ExprPtr left, ExprPtr right) const;
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filter = true);
  ExprPtr parse_primary();
  ExprPtr parse_name();
  ExprPtr parse_number();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr node);
  ExprPtr parse_filters_and_tests(ExprPtr node);
  ExprPtr parse_subscript(ExprPtr node);
  ExprPtr parse_index();
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_test(ExprPtr node);
  ExprPtr parse_filter(ExprPtr operand);
  bool tuple_ends(std::string_view end_name) const;
  void close_depth(Expr& node) const;

  int level_ = 0;
};

}  // namespace polylora::jinja
