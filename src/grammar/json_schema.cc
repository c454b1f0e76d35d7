#include "grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "grammar/json_grammar.h"
#include "grammar/number_range.h"
#include "grammar/regex_grammar.h"
#include "grammar/schema_merge.h"
#include "grammar/string_formats.h"

namespace polylora::grammar {
namespace {

using Json = nlohmann::ordered_json;
using Strings = std::vector<std::string>;

// Bounds on the work for one schema.
constexpr int kMaxDepth = 100;
constexpr int kMaxSchemas = 20'000;
constexpr int kMaxMerges = 256;
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxSchemaBytes = size_t{256} << 10;

constexpr std::array<std::string_view, 22> kRefused = {"not",
                                                       "if",
                                                       "then",
                                                       "else",
                                                       "dependencies",
                                                       "dependentRequired",
                                                       "dependentSchemas",
                                                       "patternProperties",
                                                       "propertyNames",
                                                       "minProperties",
                                                       "maxProperties",
                                                       "contains",
                                                       "minContains",
                                                       "maxContains",
                                                       "uniqueItems",
                                                       "unevaluatedItems",
                                                       "unevaluatedProperties",
                                                       "multipleOf",
                                                       "$dynamicRef",
                                                       "$recursiveRef",
                                                       "additionalItems",
                                                       "nullable"};

// Which type a schema without `type` is about, by a keyword that it has.
constexpr std::array<std::pair<std::string_view, std::string_view>, 15> kImplied = {
    {{"properties", "object"},
     {"required", "object"},
     {"additionalProperties", "object"},
     {"items", "array"},
     {"prefixItems", "array"},
     {"minItems", "array"},
     {"maxItems", "array"},
     {"minLength", "string"},
     {"maxLength", "string"},
     {"pattern", "string"},
     {"format", "string"},
     {"minimum", "number"},
     {"maximum", "number"},
     {"exclusiveMinimum", "number"},
     {"exclusiveMaximum", "number"}}};

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "integer") return value.is_number() && value.get<double>() == std::floor(value.get<double>());
  if (type == "number") return value.is_number();
  return type == std::string_view(value.type_name());
}

/// "#/a/b~1c" -> what it points to; null when there is nothing.
const Json* find_pointer(const Json& root, std::string_view pointer) {
  const Json* at = &root;
  while (!pointer.empty()) {
    if (pointer.front() != '/') return nullptr;
    const size_t end = std::min(pointer.find('/', 1), pointer.size());
    std::string token(pointer.substr(1, end - 1));
    pointer.remove_prefix(end);
    for (const auto& [escaped, plain] : {std::pair("~1", "/"), std::pair("~0", "~")})
      for (size_t i = 0; (i = token.find(escaped, i)) != std::string::npos; ++i) token.replace(i, 2, plain);
    if (at->is_object() && at->contains(token)) {
      at = &(*at)[token];
    } else if (at->is_array() && !token.empty() && token.size() < 8 &&
               token.find_first_not_of("0123456789") == std::string::npos && std::stoul(token) < at->size()) {
      at = &(*at)[std::stoul(token)];
    } else {
      return nullptr;
    }
  }
  return at;
}

class SchemaCompiler {
 public:
  explicit SchemaCompiler(const Json& root) : root_(root) {
    const size_t start = grammar_.reserve();
    any_ = add_json_rules(grammar_);
    grammar_.rules[start] = compile(root_);
  }

  Grammar take() && { return std::move(grammar_); }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "JSON schema: {}", fmt::format(format, std::forward<Args>(args)...));
  }

  // --- structure

  Expr compile(const Json& schema) {
    if (++schemas_ > kMaxSchemas) refuse("it is made of more than {} schemas", kMaxSchemas);
    if (depth_ == kMaxDepth)
      refuse("it nests deeper than {}, or refers to itself beside other keywords", kMaxDepth);
    ++depth_;
    Expr result = compile_any(schema);
    --depth_;
    return result;
  }

  Expr compile_any(const Json& schema) {
    if (schema == true) return rule(any_.value);
    if (schema == false) return any_of({});
    if (!schema.is_object()) refuse("a schema must be an object or a boolean");
    for (const std::string_view keyword : kRefused) {
      const auto found = schema.find(keyword);
      if (found != schema.end() && *found != false) refuse("'{}' is not supported", keyword);
    }
    if (schema.contains("$ref")) return reference(schema);
    if (schema.contains("allOf")) return all_of(schema);
    for (const char* keyword : {"anyOf", "oneOf"})
      if (schema.contains(keyword)) return alternatives(schema, keyword);
    if (schema.contains("const")) return constants(schema, Json::array({schema["const"]}), "const");
    if (schema.contains("enum")) return constants(schema, schema["enum"], "enum");
    return by_type(schema);
  }

  Expr reference(const Json& schema) {
    if (!schema["$ref"].is_string()) refuse("'$ref' must be a string");
    const auto name = schema["$ref"].get<std::string>();
    const Json* target =
        name.starts_with('#') ? find_pointer(root_, std::string_view(name).substr(1)) : nullptr;
    if (target == nullptr)
      refuse("'$ref' \"{}\" points to nothing within the schema; \"#/$defs/NAME\" would",
             name.substr(0, 100));
    const Json rest = without(schema, "$ref");
    if (has_rules(rest)) return compile(merge(*target, rest));
    const auto [known, added] = references_.try_emplace(target, 0);
    if (added) {
      const size_t number = known->second = grammar_.reserve();
      Expr body = compile(*target);
      grammar_.rules[number] = std::move(body);
    }
    return rule(references_.at(target));
  }

  Expr all_of(const Json& schema) {
    Json merged = without(schema, "allOf");
    for (const Json& part : non_empty_list(schema, "allOf")) {
      const bool only_ref = part.is_object() && part.contains("$ref");
      merged = merge(merged, only_ref ? resolved(part) : part);
    }
    return compile(merged);
  }

  /// The schema that a reference stands for, so that it can be merged.
  Json resolved(const Json& part) {
    if (!part["$ref"].is_string()) refuse("'$ref' must be a string");
    const auto name = part["$ref"].get<std::string>();
    const Json* target =
        name.starts_with('#') ? find_pointer(root_, std::string_view(name).substr(1)) : nullptr;
    if (target == nullptr) refuse("'$ref' \"{}\" points to nothing within the schema", name.substr(0, 100));
    return merge(*target, without(part, "$ref"));
  }

  Expr alternatives(const Json& schema, const char* keyword) {
    const Json rest = without(schema, keyword);
    if (rest.contains("oneOf")) refuse("'anyOf' beside 'oneOf' is not supported");
    std::vector<Expr> ways;
    for (const Json& part : non_empty_list(schema, keyword))
      ways.push_back(compile(has_rules(rest) ? merge(rest, part) : part));
    return any_of(std::move(ways));
  }

  Expr constants(const Json& schema, const Json& values, const char* keyword) {
    if (!values.is_array() || values.empty()) refuse("'{}' must be a list that is not empty", keyword);
    for (const auto& [key, value] : schema.items())
      if (key != keyword && key != "type" && !is_annotation(key))
        refuse("'{}' beside '{}' is not supported", key, keyword);
    std::vector<Expr> ways;
    for (const Json& value : values) {
      const Strings types = schema.contains("type") ? types_of(schema) : Strings();
      const bool fits = types.empty() || std::ranges::any_of(types, [&](const std::string& type) {
                          return has_type(value, type);
                        });
      if (fits) ways.push_back(literal(dump(value)));
    }
    if (ways.empty()) refuse("no value of '{}' has the type that 'type' asks for", keyword);
    return any_of(std::move(ways));
  }

  Expr by_type(const Json& schema) {
    const Strings types = types_of(schema);
    if (types.empty()) return rule(any_.value);
    std::vector<Expr> ways;
    for (const std::string& type : types) ways.push_back(of_type(type, schema));
    return any_of(std::move(ways));
  }

  Expr of_type(std::string_view type, const Json& schema) {
    if (type == "object") return object(schema);
    if (type == "array") return array(schema);
    if (type == "string") return string(schema);
    if (type == "integer") return integer(schema);
    if (type == "number") return number(schema);
    if (type == "boolean") return json_boolean();
    if (type == "null") return literal("null");
    refuse("there is no type '{}'", type.substr(0, 100));
  }

  // --- the types

  struct Property {
    Expr member;
    bool required = false;
  };

  Expr object(const Json& schema) {
    const Json properties = member_or(schema, "properties", Json::object(), &Json::is_object);
    Strings required;
    for (const Json& name : member_or(schema, "required", Json::array(), &Json::is_array)) {
      if (!name.is_string()) refuse("'required' must be a list of strings");
      required.push_back(name.get<std::string>());
    }
    const bool open = !schema.contains("properties") && required.empty();
    const Json additional =
        schema.contains("additionalProperties") ? schema["additionalProperties"] : Json(open);
    if (open && additional == true) return rule(any_.object);

    std::vector<Property> list;
    Strings names;
    const auto add = [&](const std::string& name, const Json& value, bool is_required) {
      names.push_back(name);
      const Expr compiled = rule(grammar_.add(compile(value)));
      list.push_back({json_member(literal(dump(name)), compiled), is_required});
    };
    for (const auto& [name, value] : properties.items())
      add(name, value, std::ranges::find(required, name) != required.end());
    for (const std::string& name : required)
      if (std::ranges::find(names, name) == names.end())
        add(name, additional == false ? Json(true) : additional, true);
    return json_object(members(list, additional == false ? nullptr : additional_member(names, additional)));
  }

  Expr additional_member(const Strings& names, const Json& schema) {
    for (const std::string& name : names)
      if (name.size() > kMaxNameBytes) refuse("property names of more than {} bytes", kMaxNameBytes);
    const Expr value = rule(grammar_.add(compile(schema)));
    return rule(grammar_.add(json_member(json_string_except(names), value)));
  }

  /// All that are required and any of the others, in order; `more` (or null) may follow as often as it likes.
  Expr members(const std::vector<Property>& list, const Expr& more) {
    // What can follow once something was written. Every property may come first that none required precedes.
    Expr rest = more == nullptr ? literal("") : repeat(json_after_comma(more), 0);
    std::vector<Expr> ways;
    const auto first_required = std::ranges::find(list, true, &Property::required);
    if (first_required == list.end()) {
      ways.push_back(literal(""));
      if (more != nullptr) ways.push_back(sequence({more, rest}));
    }
    for (size_t i = list.size(); i-- > 0;) {
      const Expr after = rule(grammar_.add(rest));
      const bool may_come_first = static_cast<std::ptrdiff_t>(i) <= first_required - list.begin();
      if (may_come_first) ways.push_back(sequence({list[i].member, after}));
      const Expr next = json_after_comma(list[i].member);
      rest = sequence({list[i].required ? next : optional(next), after});
    }
    return any_of(std::move(ways));
  }

  Expr array(const Json& schema) {
    const size_t min = size_or(schema, "minItems").value_or(0);
    const std::optional<size_t> max = size_or(schema, "maxItems");
    if (max && *max < min) refuse("'maxItems' is less than 'minItems'");
    const Json first = member_or(schema, "prefixItems", Json::array(), &Json::is_array);
    // As with properties: items that are not spoken of beside prefixItems are not wanted.
    const Json items = schema.contains("items") ? schema["items"] : Json(first.empty());
    const size_t room = max.value_or(first.size() + min);
    if (items == false && min > first.size()) refuse("'minItems' is more than 'prefixItems' has");
    const bool more = items != false && (!max || *max > first.size());
    const size_t fixed = std::min(first.size(), room);
    std::optional<Expr> item;
    if (more) item = rule(grammar_.add(compile(items)));
    if (fixed == 0) return json_array(more ? json_list(*item, min, max) : literal(""));

    Expr rest = literal("");
    if (more) {
      const std::optional<size_t> most = max ? std::optional(*max - fixed) : std::nullopt;
      rest = repeat(json_after_comma(*item), min > fixed ? min - fixed : 0, most);
    }
    // Without minItems, a list may end before its prefix does; it is wanted whole, as vLLM's backends do.
    std::vector<Expr> parts;
    for (size_t i = 0; i < fixed; ++i) {
      Expr part = rule(grammar_.add(compile(first[i])));
      parts.push_back(i == 0 ? std::move(part) : json_after_comma(std::move(part)));
    }
    parts.push_back(std::move(rest));
    return json_array(sequence(std::move(parts)));
  }

  Expr string(const Json& schema) {
    const size_t min = size_or(schema, "minLength").value_or(0);
    const std::optional<size_t> max = size_or(schema, "maxLength");
    if (max && *max < min) refuse("'maxLength' is less than 'minLength'");
    const bool has_pattern = schema.contains("pattern"), has_format = schema.contains("format");
    if (!has_pattern && !has_format) return json_string(min, max);
    if (has_pattern && has_format) refuse("'pattern' beside 'format' is not supported");
    if (min > 0 || max) refuse("'minLength' and 'maxLength' beside 'pattern' or 'format' are not supported");
    const Json& value = schema[has_pattern ? "pattern" : "format"];
    if (!value.is_string()) refuse("'pattern' and 'format' must be strings");
    const auto& text = value.get_ref<const std::string&>();
    if (has_pattern) return json_quoted(regex_expression(text, RegexMatch::kAnywhere, TextForm::kJsonString));
    const std::string_view pattern = format_pattern(text);
    if (pattern.empty()) refuse("the format '{}' is not supported", text.substr(0, 100));
    return json_quoted(regex_expression(pattern, RegexMatch::kWhole, TextForm::kJsonString));
  }

  Expr integer(const Json& schema) {
    std::optional<int64_t> min, max;
    if (const auto bound = lower_bound(schema)) {
      const double least = bound->exclusive ? std::floor(bound->value) + 1 : std::ceil(bound->value);
      min = clamped(least);
    }
    if (const auto bound = upper_bound(schema)) {
      const double most = bound->exclusive ? std::ceil(bound->value) - 1 : std::floor(bound->value);
      max = clamped(most);
    }
    return min || max ? integer_range(min, max) : json_integer();
  }

  Expr number(const Json& schema) {
    const auto min = lower_bound(schema), max = upper_bound(schema);
    return min || max ? number_range(min, max) : json_number();
  }

  static int64_t clamped(double value) {
    constexpr double kFar = 1e17;  // beyond what integer_range writes
    return static_cast<int64_t>(std::clamp(value, -kFar, kFar));
  }

  std::optional<NumberBound> lower_bound(const Json& schema) const {
    const auto inclusive = number_or(schema, "minimum"), exclusive = number_or(schema, "exclusiveMinimum");
    if (exclusive && (!inclusive || *exclusive >= *inclusive)) return NumberBound{*exclusive, true};
    if (inclusive) return NumberBound{*inclusive, false};
    return std::nullopt;
  }

  std::optional<NumberBound> upper_bound(const Json& schema) const {
    const auto inclusive = number_or(schema, "maximum"), exclusive = number_or(schema, "exclusiveMaximum");
    if (exclusive && (!inclusive || *exclusive <= *inclusive)) return NumberBound{*exclusive, true};
    if (inclusive) return NumberBound{*inclusive, false};
    return std::nullopt;
  }

  // --- reading keywords

  Strings types_of(const Json& schema) const {
    const auto found = schema.find("type");
    if (found == schema.end()) {
      for (const auto& [keyword, type] : kImplied)
        if (schema.contains(keyword)) return {std::string(type)};
      return {};
    }
    Strings types;
    for (const Json& type : found->is_array() ? *found : Json::array({*found})) {
      if (!type.is_string()) refuse("'type' must be a string or a list of strings");
      types.push_back(type.get<std::string>());
    }
    if (types.empty()) refuse("'type' allows nothing");
    return types;
  }

  Json member_or(const Json& schema, const char* keyword, Json otherwise,
                 bool (Json::*is)() const noexcept) const {
    const auto found = schema.find(keyword);
    if (found == schema.end()) return otherwise;
    if (!((*found).*is)()) refuse("'{}' must be {}", keyword, otherwise.is_object() ? "an object" : "a list");
    return *found;
  }

  const Json& non_empty_list(const Json& schema, const char* keyword) const {
    const Json& list = schema[keyword];
    if (!list.is_array() || list.empty()) refuse("'{}' must be a list that is not empty", keyword);
    return list;
  }

  std::optional<size_t> size_or(const Json& schema, const char* keyword) const {
    const auto found = schema.find(keyword);
    if (found == schema.end()) return std::nullopt;
    const bool whole = found->is_number() && found->get<double>() >= 0 && has_type(*found, "integer");
    if (!whole) refuse("'{}' must be a non-negative integer", keyword);
    return static_cast<size_t>(std::min(found->get<double>(), 1e9));
  }

  std::optional<double> number_or(const Json& schema, const char* keyword) const {
    const auto found = schema.find(keyword);
    if (found == schema.end()) return std::nullopt;
    if (!found->is_number()) refuse("'{}' must be a number", keyword);
    return found->get<double>();
  }

  static Json without(const Json& schema, const char* keyword) {
    Json rest = schema;
    rest.erase(keyword);
    return rest;
  }

  static bool has_rules(const Json& schema) {
    for (const auto& [keyword, value] : schema.items())
      if (!is_annotation(keyword)) return true;
    return false;
  }

  Json merge(const Json& a, const Json& b) {
    if (++merges_ > kMaxMerges) refuse("it combines schemas more than {} times", kMaxMerges);
    return merge_schemas(a, b);
  }

  const Json& root_;
  Grammar grammar_;
  JsonRules any_;
  std::map<const Json*, size_t> references_;  // rules, by what they refer to
  int schemas_ = 0, merges_ = 0, depth_ = 0;
};

}  // namespace

Grammar schema_grammar(const Json& schema) {
  if (dump(schema).size() > kMaxSchemaBytes)
    fail(ErrorCode::kInvalidArgument, "JSON schema: it has more than {} bytes", kMaxSchemaBytes);
  return SchemaCompiler(schema).take();
}

}  // namespace polylora::grammar
