#include "text/jinja_expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace polylora::jinja {
namespace {

constexpr int kMaxLevel = 120;  // recursion of the parser: brackets in brackets, statements in statements
constexpr int kMaxDepth = 400;  // depth of the tree: chains like a + b + c … grow it without recursion

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.level_ > kMaxLevel) {
    --parser_.level_;
    parser_.error("nested too deeply");
  }
}

void ExpressionParser::error(std::string_view what) const {
  fail(ErrorCode::kDataCorrupt, "chat template, line {}: {}", current().line, what);
}

void ExpressionParser::unexpected() const {
  switch (current().type) {
    case TokenType::kEnd:
      error("unexpected end of the template");
    case TokenType::kVariableEnd:
    case TokenType::kBlockEnd:
      error("unexpected end of the tag");
    default:
      error(fmt::format("unexpected '{}'", current().value));
  }
}

bool ExpressionParser::skip_op(std::string_view op) {
  const bool found = is_op(op);
  if (found) take();
  return found;
}

bool ExpressionParser::skip_name(std::string_view name) {
  const bool found = is_name(name);
  if (found) take();
  return found;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!skip_op(op)) error(fmt::format("expected '{}', found '{}'", op, current().value));
}

Name ExpressionParser::expect_name() {
  if (current().type != TokenType::kName) unexpected();
  return names_.intern(take().value);
}

ExprPtr ExpressionParser::make(ExprKind kind) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = current().line;
  return node;
}

void ExpressionParser::adopt(Expr& parent, ExprPtr child) const {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxDepth) error("the expression is too long");
  }
  parent.args.push_back(std::move(child));
}

ExprPtr ExpressionParser::binary(Op op, ExprPtr left, ExprPtr right) const {
  ExprPtr node = make(ExprKind::kBinary);
  node->op = op;
  node->line = left->line;
  adopt(*node, std::move(left));
  adopt(*node, std::move(right));
  return node;
}

bool ExpressionParser::tuple_ends(std::string_view end_name) const {
  const TokenType type = current().type;
  return type == TokenType::kVariableEnd || type == TokenType::kBlockEnd || is_op(")") ||
         (!end_name.empty() && is_name(end_name));
}

ExprPtr ExpressionParser::parse_tuple(bool with_condition, std::string_view end_name, bool parenthesised) {
  ExprPtr tuple = make(ExprKind::kTuple);
  bool is_tuple = false;
  while (true) {
    if (!tuple->args.empty()) expect_op(",");
    if (tuple_ends(end_name)) break;
    adopt(*tuple, parse_expression(with_condition));
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->args.empty()) return std::move(tuple->args[0]);
  if (!parenthesised) unexpected();
  return tuple;
}

ExprPtr ExpressionParser::parse_expression(bool with_condition) {
  const Level level(*this);
  ExprPtr node = parse_or();
  while (with_condition && skip_name("if")) {
    ExprPtr choice = make(ExprKind::kIf);
    adopt(*choice, std::move(node));
    adopt(*choice, parse_or());
    adopt(*choice, skip_name("else") ? parse_expression() : nullptr);
    node = std::move(choice);
  }
  return node;
}

ExprPtr ExpressionParser::parse_or() {
  ExprPtr left = parse_and();
  if (!is_name("or")) return left;
  ExprPtr node = make(ExprKind::kOr);
  adopt(*node, std::move(left));
  while (skip_name("or")) adopt(*node, parse_and());
  return node;
}

ExprPtr ExpressionParser::parse_and() {
  ExprPtr left = parse_not();
  if (!is_name("and")) return left;
  ExprPtr node = make(ExprKind::kAnd);
  adopt(*node, std::move(left));
  while (skip_name("and")) adopt(*node, parse_not());
  return node;
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Level level(*this);
  ExprPtr node = make(ExprKind::kNot);
  take();
  adopt(*node, parse_not());
  return node;
}

ExprPtr ExpressionParser::parse_compare() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt}, {"<=", Op::kLe}, {">", Op::kGt}, {">=", Op::kGe}};
  ExprPtr left = parse_sum();
  ExprPtr node;
  while (true) {
    const auto* known =
        std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& o) { return is_op(o.first); });
    Op op = Op::kIn;
    if (known != std::end(kOps)) {
      op = known->second;
      take();
    } else if (is_name("not") && ahead().type == TokenType::kName && ahead().value == "in") {
      op = Op::kNotIn;
      take();
      take();
    } else if (!skip_name("in")) {
      return node != nullptr ? std::move(node) : std::move(left);
    }
    if (node == nullptr) {
      node = make(ExprKind::kCompare);
      adopt(*node, std::move(left));
    }
    node->ops.push_back(op);
    adopt(*node, parse_sum());
  }
}

ExprPtr ExpressionParser::parse_sum() {
  ExprPtr left = parse_concat();
  while (is_op("+") || is_op("-")) {
    const Op op = is_op("+") ? Op::kAdd : Op::kSub;
    take();
    left = binary(op, std::move(left), parse_concat());
  }
  return left;
}

ExprPtr ExpressionParser::parse_concat() {
  ExprPtr left = parse_product();
  if (!is_op("~")) return left;
  ExprPtr node = make(ExprKind::kConcat);
  adopt(*node, std::move(left));
  while (skip_op("~")) adopt(*node, parse_product());
  return node;
}

ExprPtr ExpressionParser::parse_product() {
  ExprPtr left = parse_power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    const Op op = is_op("*") ? Op::kMul : is_op("/") ? Op::kDiv : is_op("//") ? Op::kFloorDiv : Op::kMod;
    take();
    left = binary(op, std::move(left), parse_power());
  }
  return left;
}

ExprPtr ExpressionParser::parse_power() {
  ExprPtr left = parse_unary();
  while (skip_op("**")) left = binary(Op::kPow, std::move(left), parse_unary());
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filter) {
  ExprPtr node;
  if (is_op("-") || is_op("+")) {
    const Level level(*this);
    node = make(is_op("-") ? ExprKind::kNegate : ExprKind::kPositive);
    take();
    adopt(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::parse_primary() {
  switch (current().type) {
    case TokenType::kName:
      return parse_name();
    case TokenType::kInteger:
    case TokenType::kFloat:
      return parse_number();
    case TokenType::kString: {
      ExprPtr node = make(ExprKind::kConst);
      std::string text;
      while (current().type == TokenType::kString) text += take().value;
      node->value = Value::string(std::move(text));
      return node;
    }
    default:
      break;
  }
  if (is_op("[")) return parse_list();
  if (is_op("{")) return parse_dict();
  if (!skip_op("(")) unexpected();
  const Level level(*this);
  ExprPtr node = parse_tuple(true, {}, true);
  expect_op(")");
  return node;
}

ExprPtr ExpressionParser::parse_name() {
  ExprPtr node = make(ExprKind::kConst);
  const std::string name = take().value;
  if (name == "true" || name == "True") {
    node->value = Value::boolean(true);
  } else if (name == "false" || name == "False") {
    node->value = Value::boolean(false);
  } else if (name == "none" || name == "None") {
    node->value = Value::none();
  } else {
    node->kind = ExprKind::kName;
    node->name = names_.intern(name);
  }
  return node;
}

ExprPtr ExpressionParser::parse_number() {
  ExprPtr node = make(ExprKind::kConst);
  const Token token = take();
  if (token.type == TokenType::kFloat) {
    node->value = Value::number(std::strtod(token.value.c_str(), nullptr));
    return node;
  }
  std::string_view digits = token.value;
  int base = 10;
  if (digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) >= 'a') {
    base = (digits[1] | 0x20) == 'x' ? 16 : (digits[1] | 0x20) == 'o' ? 8 : 2;
    digits.remove_prefix(2);
  }
  int64_t value = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (problem != std::errc() || end != digits.data() + digits.size()) {
    error(fmt::format("number {} is malformed or too large", token.value));
  }
  node->value = Value::integer(value);
  return node;
}

ExprPtr ExpressionParser::parse_list() {
  const Level level(*this);
  ExprPtr node = make(ExprKind::kList);
  expect_op("[");
  while (!is_op("]")) {
    if (!node->args.empty()) expect_op(",");
    if (is_op("]")) break;
    adopt(*node, parse_expression());
  }
  expect_op("]");
  return node;
}

ExprPtr ExpressionParser::parse_dict() {
  const Level level(*this);
  ExprPtr node = make(ExprKind::kDict);
  expect_op("{");
  while (!is_op("}")) {
    if (!node->args.empty()) expect_op(",");
    if (is_op("}")) break;
    adopt(*node, parse_expression());
    expect_op(":");
    adopt(*node, parse_expression());
  }
  expect_op("}");
  return node;
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr node) {
  while (true) {
    if (skip_op(".")) {
      const bool index = current().type == TokenType::kInteger;
      ExprPtr next = make(index ? ExprKind::kItem : ExprKind::kAttr);
      adopt(*next, std::move(node));
      if (index) {
        adopt(*next, parse_number());
      } else {
        next->name = expect_name();
      }
      node = std::move(next);
    } else if (is_op("[")) {
      node = parse_subscript(std::move(node));
    } else if (is_op("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr node) {
  const Level level(*this);
  expect_op("[");
  ExprPtr index = parse_index();
  if (is_op(",")) {
    ExprPtr tuple = make(ExprKind::kTuple);
    adopt(*tuple, std::move(index));
    while (skip_op(",")) adopt(*tuple, parse_expression());
    index = std::move(tuple);
  }
  expect_op("]");
  if (index->kind == ExprKind::kSlice && index->args[0] == nullptr) {
    index->depth = std::max(index->depth, node->depth + 1);
    if (index->depth > kMaxDepth) error("the expression is too long");
    index->args[0] = std::move(node);
    return index;
  }
  ExprPtr item = make(ExprKind::kItem);
  adopt(*item, std::move(node));
  adopt(*item, std::move(index));
  return item;
}

/// An index, or a slice whose operand is still null.
ExprPtr ExpressionParser::parse_index() {
  ExprPtr first = is_op(":") ? nullptr : parse_expression();
  if (!is_op(":")) return first;
  ExprPtr slice = make(ExprKind::kSlice);
  adopt(*slice, nullptr);
  adopt(*slice, std::move(first));
  for (int part = 0; part < 2; ++part) {
    const bool present = skip_op(":") && !is_op(":") && !is_op("]") && !is_op(",");
    adopt(*slice, present ? parse_expression() : nullptr);
  }
  return slice;
}

ExprPtr ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr call = make(ExprKind::kCall);
  adopt(*call, std::move(callee));
  parse_call_arguments(*call);
  return call;
}

void ExpressionParser::close_depth(Expr& node) const {
  for (const auto& [name, value] : node.named) node.depth = std::max(node.depth, value->depth + 1);
  if (node.star) node.depth = std::max(node.depth, node.star->depth + 1);
  if (node.star_star) node.depth = std::max(node.depth, node.star_star->depth + 1);
  if (node.depth > kMaxDepth) error("the expression is too long");
}

void ExpressionParser::parse_call_arguments(Expr& call) {
  const Level level(*this);
  expect_op("(");
  bool first = true;
  while (!is_op(")")) {
    if (!first) expect_op(",");
    first = false;
    if (is_op(")")) break;
    if (skip_op("*")) {
      if (call.star) error("'*' is given twice");
      call.star = parse_expression();
    } else if (skip_op("**")) {
      if (call.star_star) error("'**' is given twice");
      call.star_star = parse_expression();
    } else if (current().type == TokenType::kName && ahead().type == TokenType::kOperator &&
               ahead().value == "=") {
      const Name name = expect_name();
      expect_op("=");
      call.named.emplace_back(name, parse_expression());
    } else {
      if (!call.named.empty() || call.star_star) error("a positional argument follows a named one");
      adopt(call, parse_expression());
    }
  }
  expect_op(")");
  close_depth(call);
}

ExprPtr ExpressionParser::parse_filters_and_tests(ExprPtr node) {
  while (true) {
    if (is_op("|")) {
      node = parse_filter(std::move(node));
    } else if (is_name("is")) {
      node = parse_test(std::move(node));
    } else if (is_op("(")) {  // calls are valid both after postfix expressions and after filters
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::parse_filter(ExprPtr operand) {
  expect_op("|");
  ExprPtr node = make(ExprKind::kFilter);
  adopt(*node, std::move(operand));
  node->name = expect_name();
  if (is_op("(")) parse_call_arguments(*node);
  return node;
}

ExprPtr ExpressionParser::parse_filter_chain(ExprPtr operand) {
  while (true) {
    ExprPtr node = make(ExprKind::kFilter);
    adopt(*node, std::move(operand));
    node->name = expect_name();
    if (is_op("(")) parse_call_arguments(*node);
    operand = std::move(node);
    if (!skip_op("|")) return operand;
  }
}

ExprPtr ExpressionParser::parse_test(ExprPtr node) {
  ExprPtr test = make(ExprKind::kTest);
  take();
  const bool negated = skip_name("not");
  adopt(*test, std::move(node));
  test->name = expect_name();
  const TokenType type = current().type;
  const bool literal = type == TokenType::kName || type == TokenType::kString ||
                       type == TokenType::kInteger || type == TokenType::kFloat || is_op("[") || is_op("{");
  if (is_op("(")) {
    parse_call_arguments(*test);
  } else if (literal && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) error("tests cannot be chained with 'is'");
    // "x is defined if y" and "… is number in z": Jinja reads the keyword as the argument's name and then
    // fails; nothing is lost by ending the test there.
    if (!is_name("if") && !is_name("in") && !is_name("not") && !is_name("recursive")) {
      ExprPtr argument = parse_primary();
      adopt(*test, parse_postfix(std::move(argument)));
    }
  }
  if (!negated) return test;
  ExprPtr inverse = make(ExprKind::kNot);
  adopt(*inverse, std::move(test));
  return inverse;
}

}  // namespace polylora::jinja
