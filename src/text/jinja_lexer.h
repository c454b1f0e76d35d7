// Cuts a template into tokens, with trim_blocks and lstrip_blocks as transformers sets them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace polylora::jinja {

enum class TokenType {
  kText,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string value;  // text, name, operator, digits or the string literal's content
  int line = 1;
};

/// Ends with a kEnd token. Throws kDataCorrupt with the line of the problem.
std::vector<Token> tokenize(std::string_view source);

}  // namespace polylora::jinja
