// The template language's library: filters, tests, methods of strings, dicts and lists, global functions.
#pragma once

#include <functional>
#include <string_view>

#include "text/jinja_interpreter.h"

namespace polylora::jinja {

using Builtin = Value (*)(Interpreter&, const Value& self, Args& args);
using Test = bool (*)(Interpreter&, const Value& value, Args& args);

/// All return null for an unknown name.
Builtin find_filter(std::string_view name);
Test find_test(std::string_view name);
/// A method that Python's type of `self` has and that changes nothing.
Builtin find_method(const Value& self, std::string_view name);

/// A callable value; `depth_held` is the depth of the values its body holds.
Value make_function(std::string_view name, std::function<Value(Interpreter&, Args&)> body,
                    int depth_held = 0);

/// Global functions: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
void define_globals(Interpreter& interpreter);

// Shared by filters and methods; `self` is a string.
std::string strip_text(std::string_view text, const Value* characters, bool left, bool right);
Value replace_text(Interpreter& interpreter, const std::string& text, const std::string& from,
                   const std::string& to, int64_t count);
std::string capitalize_text(std::string_view text);
std::string title_text(std::string_view text);
/// `format % arguments`.
std::string percent_format(const std::string& format, const Value& arguments);
Value join_values(Interpreter& interpreter, const std::vector<Value>& items, std::string_view separator);
/// Throws unless `value` is a string; `what` names the operation.
const std::string& expect_string(const Value& value, std::string_view what);

}  // namespace polylora::jinja
