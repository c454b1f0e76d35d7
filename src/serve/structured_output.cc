#include "serve/structured_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "grammar/json_grammar.h"
#include "grammar/json_schema.h"
#include "grammar/regex_grammar.h"
#include "serve/api_error.h"

namespace polylora {

namespace {

using Kind = StructuredOutput::Kind;

constexpr size_t kMaxChoices = 4096;

/// Collects wishes; more than one is a contradiction.
class Wishes {
 public:
  void add(const char* param, Kind kind, Json content) {
    if (wish_)
      fail_parameter(param,
                     "a request can ask for one kind of structured output only: a JSON schema, a JSON "
                     "object, a regular expression or choices.");
    wish_ = StructuredOutput{kind, std::move(content)};
  }
  std::optional<StructuredOutput> take() { return std::move(wish_); }

 private:
  std::optional<StructuredOutput> wish_;
};

/// A schema may come as JSON text.
Json schema_of(const char* param, const Json& value) {
  if (value.is_object() || value.is_boolean()) return value;
  if (value.is_string()) return parse_json_body(value.get_ref<const std::string&>());
  fail_parameter(param, "a JSON schema must be an object, or the text of one.");
}

Json choices_of(const char* param, const Json& value) {
  const bool strings =
      value.is_array() && !value.empty() &&
      std::ranges::all_of(value, [](const Json& choice) { return choice.is_string() && choice != ""; });
  if (!strings || value.size() > kMaxChoices)
    fail_parameter(param,
                   fmt::format("choices must be a list of 1 to {} strings that are not empty.", kMaxChoices));
  return value;
}

Json pattern_of(const char* param, const Json& value) {
  if (!value.is_string()) fail_parameter(param, "a regular expression must be a string.");
  return value;
}

[[noreturn]] void fail_unsupported(const char* param, std::string_view what) {
  fail_parameter(param, fmt::format("{} is not supported by this server.", what));
}

void read_response_format(FieldReader& fields, Wishes& wishes) {
  constexpr const char* kParam = "response_format";
  const Json* format = fields.object(kParam);
  if (format == nullptr) return;
  const auto type = format->find("type");
  if (type == format->end() || !type->is_string())
    fail_parameter(kParam, "response_format needs a \"type\".");
  if (*type == "json_object") return wishes.add(kParam, Kind::kJsonObject, nullptr);
  if (*type == "json_schema") {
    const auto named = format->find("json_schema");
    if (named == format->end() || !named->is_object() || !named->contains("schema"))
      fail_parameter(kParam,
                     "response_format of type json_schema needs \"json_schema\": {\"name\", \"schema\"}.");
    return wishes.add(kParam, Kind::kJsonSchema, schema_of(kParam, (*named)["schema"]));
  }
  if (*type != "text")
    fail_unsupported(kParam,
                     fmt::format("response_format of type '{}'", type->get<std::string>().substr(0, 64)));
}

void add_wish(const char* param, std::string_view kind, const Json& value, Wishes& wishes) {
  if (kind == "json") return wishes.add(param, Kind::kJsonSchema, schema_of(param, value));
  if (kind == "regex") return wishes.add(param, Kind::kRegex, pattern_of(param, value));
  if (kind == "choice") return wishes.add(param, Kind::kChoice, choices_of(param, value));
  if (kind == "json_object" && value == true) return wishes.add(param, Kind::kJsonObject, nullptr);
  const bool off = value == false;
  if (!off) fail_unsupported(param, fmt::format("'{}' with this value", kind));
}

void read_structured_outputs(FieldReader& fields, Wishes& wishes) {
  constexpr const char* kParam = "structured_outputs";
  const Json* options = fields.object(kParam);
  if (options == nullptr) return;
  for (const auto& [kind, value] : options->items())
    if (!value.is_null()) add_wish(kParam, std::string_view(kind).substr(0, 64), value, wishes);
}

void read_guided(FieldReader& fields, Wishes& wishes) {
  static constexpr std::array<std::pair<const char*, const char*>, 4> kGuided = {
      {{"guided_json", "json"},
       {"guided_regex", "regex"},
       {"guided_choice", "choice"},
       {"guided_json_object", "json_object"}}};
  for (const auto& [field, kind] : kGuided)
    if (const Json* value = fields.find(field)) add_wish(field, kind, *value, wishes);
}

}  // namespace

std::string StructuredOutput::key() const {
  return fmt::format("{}:{}", static_cast<int>(kind), dump_json(content));
}

std::optional<StructuredOutput> read_structured_output(FieldReader& fields) {
  Wishes wishes;
  read_response_format(fields, wishes);
  read_structured_outputs(fields, wishes);
  read_guided(fields, wishes);
  return wishes.take();
}

grammar::Grammar make_grammar(const StructuredOutput& wish) {
  switch (wish.kind) {
    case Kind::kJsonSchema:
      return grammar::schema_grammar(wish.content);
    case Kind::kRegex: {
      grammar::Grammar grammar;
      grammar.add(grammar::regex_expression(wish.content.get_ref<const std::string&>(),
                                            grammar::RegexMatch::kWhole, grammar::TextForm::kPlain));
      return grammar;
    }
    case Kind::kChoice:
      return grammar::choice_grammar(wish.content.get<std::vector<std::string>>());
    case Kind::kJsonObject:
      break;
  }
  return grammar::json_object_grammar();
}

}  // namespace polylora
