#include "text/jinja_parser.h"

#include "text/jinja_expression_parser.h"

namespace polylora::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, Template& out)
      : ExpressionParser(std::move(tokens), out.names), out_(out) {
    for (const char* name : {"loop", "caller", "varargs", "kwargs"}) names_.intern(name);
  }

  void run() {
    out_.body = parse_body({});
    if (current().type != TokenType::kEnd) unexpected();
  }

 private:
  using StmtPtr = std::unique_ptr<Stmt>;

  StmtPtr make(StmtKind kind) const {
    auto node = std::make_unique<Stmt>();
    node->kind = kind;
    node->line = current().line;
    return node;
  }

  void end_block() {
    if (current().type != TokenType::kBlockEnd) unexpected();
    take();
  }

  bool at_tag(std::initializer_list<std::string_view> names) const {
    if (current().type != TokenType::kBlockBegin || ahead().type != TokenType::kName) return false;
    for (const auto name : names) {
      if (ahead().value == name) return true;
    }
    return false;
  }

  /// Statements up to a tag named in `ends` (left unread) or the end of the template.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Body body;
    while (current().type != TokenType::kEnd) {
      if (at_tag(ends)) return body;
      if (current().type == TokenType::kText) {
        StmtPtr text = make(StmtKind::kText);
        text->text = take().value;
        body.push_back(std::move(text));
      } else if (current().type == TokenType::kVariableBegin) {
        take();
        StmtPtr output = make(StmtKind::kOutput);
        output->exprs.push_back(parse_tuple());
        if (current().type != TokenType::kVariableEnd) unexpected();
        take();
        body.push_back(std::move(output));
      } else {
        body.push_back(parse_statement());
      }
    }
    if (ends.size() > 0)
      error(fmt::format("expected {{% {} %}} before the end of the template", *(ends.end() - 1)));
    return body;
  }

  /// The body, its end tag and the tag's close.
  Body parse_body_to(std::string_view end) {
    end_block();
    Body body = parse_body({end});
    take();
    take();
    return body;
  }

  StmtPtr parse_statement() {
    take();  // {%
    if (current().type != TokenType::kName) unexpected();
    const std::string tag = current().value;
    if (tag == "if") return parse_if();
    if (tag == "for") return parse_for();
    if (tag == "set") return parse_set();
    if (tag == "macro") return parse_macro();
    if (tag == "call") return parse_call_block();
    if (tag == "filter") return parse_filter_block();
    if (tag == "with") return parse_with();
    if (tag == "generation") return parse_scope("endgeneration");
    if (tag == "block") return parse_scope("endblock");
    if (tag == "break" || tag == "continue") return parse_jump();
    if (tag == "include" || tag == "extends" || tag == "import" || tag == "from" || tag == "do" ||
        tag == "autoescape" || tag == "trans") {
      fail(ErrorCode::kUnsupported, "chat template, line {}: the tag '{}' is not supported", current().line,
           tag);
    }
    error(fmt::format("unknown tag '{}'", tag));
  }

  StmtPtr parse_jump() {
    if (loops_ == 0) error(fmt::format("'{}' outside a loop", current().value));
    StmtPtr node = make(is_name("break") ? StmtKind::kBreak : StmtKind::kContinue);
    take();
    end_block();
    return node;
  }

  StmtPtr parse_if() {
    StmtPtr node = make(StmtKind::kIf);
    while (true) {
      const std::string tag = take().value;  // if, elif, else, endif
      if (tag == "endif") break;
      if (tag != "else") node->exprs.push_back(parse_tuple(false));
      end_block();
      node->bodies.push_back(tag == "else" ? parse_body({"endif"}) : parse_body({"elif", "else", "endif"}));
      take();  // {%
    }
    end_block();
    return node;
  }

  Target parse_one_target(bool with_attribute) {
    const Level level(*this);
    Target target;
    if (skip_op("(")) {
      target = parse_targets(with_attribute, {});
      expect_op(")");
      return target;
    }
    if (is_name("true") || is_name("false") || is_name("none") || is_name("True") || is_name("False") ||
        is_name("None")) {
      error(fmt::format("cannot assign to '{}'", current().value));
    }
    target.name = expect_name();
    if (with_attribute && skip_op(".")) target.attribute = expect_name();
    return target;
  }

  Target parse_targets(bool with_attribute, std::string_view end_name) {
    Target first = parse_one_target(with_attribute);
    if (!is_op(",")) return first;
    Target all;
    all.parts.push_back(std::move(first));
    while (skip_op(",")) {
      if (is_op("=") || is_op(")") || (!end_name.empty() && is_name(end_name))) break;
      all.parts.push_back(parse_one_target(with_attribute));
    }
    return all;
  }

  StmtPtr parse_for() {
    StmtPtr node = make(StmtKind::kFor);
    take();
    node->targets.push_back(parse_targets(false, "in"));
    if (!skip_name("in")) error("expected 'in'");
    node->exprs.push_back(parse_tuple(false, "recursive"));
    node->exprs.push_back(skip_name("if") ? parse_expression() : nullptr);
    node->recursive = skip_name("recursive");
    end_block();
    ++loops_;
    node->bodies.push_back(parse_body({"else", "endfor"}));
    --loops_;
    take();
    if (take().value == "else") {
      end_block();
      node->bodies.push_back(parse_body({"endfor"}));
      take();
      take();
    }
    end_block();
    return node;
  }

  StmtPtr parse_set() {
    StmtPtr node = make(StmtKind::kSet);
    take();
    node->targets.push_back(parse_targets(true, {}));
    if (skip_op("=")) {
      node->exprs.push_back(parse_tuple());
      end_block();
      return node;
    }
    node->kind = StmtKind::kSetBlock;
    if (skip_op("|")) node->exprs.push_back(parse_filter_chain(nullptr));
    node->bodies.push_back(parse_body_to("endset"));
    end_block();
    return node;
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> out;
    expect_op("(");
    while (!is_op(")")) {
      if (!out.empty()) expect_op(",");
      if (is_op(")")) break;
      Parameter parameter;
      parameter.name = expect_name();
      if (skip_op("=")) {
        parameter.fallback = parse_expression();
      } else if (!out.empty() && out.back().fallback != nullptr) {
        error("a parameter without a default follows one with a default");
      }
      out.push_back(std::move(parameter));
    }
    expect_op(")");
    return out;
  }

  /// Loops around a macro do not reach into it.
  Body parse_function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = parse_body_to(end);
    loops_ = loops;
    return body;
  }

  StmtPtr parse_macro() {
    StmtPtr node = make(StmtKind::kMacro);
    take();
    node->name = expect_name();
    node->parameters = parse_parameters();
    node->bodies.push_back(parse_function_body("endmacro"));
    end_block();
    return node;
  }

  StmtPtr parse_call_block() {
    StmtPtr node = make(StmtKind::kCallBlock);
    take();
    if (is_op("(")) node->parameters = parse_parameters();
    node->exprs.push_back(parse_expression());
    if (node->exprs[0]->kind != ExprKind::kCall) error("expected a call after {% call");
    node->name = names_.intern("caller");
    node->bodies.push_back(parse_function_body("endcall"));
    end_block();
    return node;
  }

  StmtPtr parse_filter_block() {
    StmtPtr node = make(StmtKind::kFilterBlock);
    take();
    node->exprs.push_back(parse_filter_chain(nullptr));
    node->bodies.push_back(parse_body_to("endfilter"));
    end_block();
    return node;
  }

  StmtPtr parse_with() {
    StmtPtr node = make(StmtKind::kWith);
    take();
    while (current().type != TokenType::kBlockEnd) {
      if (!node->targets.empty()) expect_op(",");
      node->targets.push_back(parse_targets(false, {}));
      expect_op("=");
      node->exprs.push_back(parse_expression());
    }
    node->bodies.push_back(parse_body_to("endwith"));
    end_block();
    return node;
  }

  StmtPtr parse_scope(std::string_view end) {
    StmtPtr node = make(StmtKind::kScope);
    while (current().type == TokenType::kName) take();  // block NAME scoped required
    node->bodies.push_back(parse_body_to(end));
    while (current().type == TokenType::kName) take();  // endblock NAME
    end_block();
    return node;
  }

  Template& out_;
  int loops_ = 0;
};

}  // namespace

std::unique_ptr<const Template> parse(std::string_view source) {
  auto out = std::make_unique<Template>();
  Parser(tokenize(source), *out).run();
  return out;
}

}  // namespace polylora::jinja
