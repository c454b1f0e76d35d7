#include "serve/tool_choice.h"

#include <fmt/format.h>

#include <utility>

#include "serve/api_error.h"

namespace polylora {

namespace {

constexpr const char* kParam = "tool_choice";

using Kind = StructuredOutput::Kind;

/// The function of a tool; what lacks a name is no tool.
const Json& function_of(const Json& tool) {
  const bool is_tool = tool.is_object() && tool.value("type", Json("function")) == "function" &&
                       tool.contains("function") && tool["function"].is_object();
  if (!is_tool) fail_parameter("tools", "a tool must be {\"type\": \"function\", \"function\": {…}}.");
  const Json& function = tool["function"];
  if (!function.contains("name") || !function["name"].is_string() || function["name"] == "")
    fail_parameter("tools", "the function of a tool needs a name.");
  return function;
}

/// The schema of a function's arguments.
Json parameters_of(const Json& function) {
  const auto found = function.find("parameters");
  return found == function.end() || found->is_null() ? Json{{"type", "object"}} : *found;
}

/// References of a function's schema are relative to it: its definitions move to where they will be looked
/// for.
void move_definitions(Json& parameters, Json& root) {
  if (!parameters.is_object()) return;
  for (const char* key : {"$defs", "definitions"}) {
    const auto found = parameters.find(key);
    if (found == parameters.end() || !found->is_object()) continue;
    for (const auto& [name, schema] : found->items()) {
      Json& known = root[key][name];
      if (!known.is_null() && known != schema)
        fail_parameter("tools",
                       fmt::format("two tools have different definitions of '{}'.", name.substr(0, 64)));
      known = schema;
    }
    parameters.erase(key);
  }
}

/// A list of calls: [{"name": …, "parameters": {…}}, …]
Json call_list_schema(const Json& tools, bool parallel) {
  Json root;
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const Json& function = function_of(tool);
    Json parameters = parameters_of(function);
    move_definitions(parameters, root);
    Json properties{{"name", Json{{"const", function["name"]}}}, {"parameters", std::move(parameters)}};
    calls.push_back(Json{{"type", "object"},
                         {"properties", std::move(properties)},
                         {"required", Json::array({"name", "parameters"})},
                         {"additionalProperties", false}});
  }
  root["type"] = "array";
  root["minItems"] = 1;
  if (!parallel) root["maxItems"] = 1;
  root["items"] = Json{{"anyOf", std::move(calls)}};
  return root;
}

void choose_function(const Json& choice, const Json& tools, ToolChoice& out) {
  const bool named = choice.is_object() && choice.value("type", Json()) == "function" &&
                     choice.contains("function") && choice["function"].is_object() &&
                     choice["function"].contains("name") && choice["function"]["name"].is_string();
  if (!named)
    fail_parameter(kParam,
                   "tool_choice must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", "
                   "\"function\": {\"name\": …}}.");
  out.name = choice["function"]["name"].get<std::string>();
  for (const Json& tool : tools) {
    const Json& function = function_of(tool);
    if (function["name"] != out.name) continue;
    out.arguments = StructuredOutput{Kind::kJsonSchema, parameters_of(function)};
    return;
  }
  fail_parameter(kParam, fmt::format("the tool '{}' is not among `tools`.", out.name.substr(0, 64)));
}

}  // namespace

std::unique_ptr<ToolCallParser> ToolChoice::make_parser() const {
  if (!name.empty()) return make_named_call_parser(name);
  return format ? make_tool_call_parser(*format, parallel) : nullptr;
}

ToolChoice read_tool_choice(FieldReader& fields, const ToolRules& rules, Json& tools) {
  ToolChoice out;
  out.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  const bool has_tools = tools.is_array() && !tools.empty();
  for (const Json& tool : has_tools ? tools : Json::array()) function_of(tool);
  const Json* given = fields.find(kParam);
  const Json choice = given != nullptr ? *given : Json(has_tools ? "auto" : "none");
  if (choice == "none") {
    if (rules.hide_when_none) tools = nullptr;
    return out;
  }
  if (!has_tools) {
    if (choice == "auto") return out;
    fail_parameter(kParam, "When using `tool_choice`, `tools` must be set.");
  }
  if (choice == "auto") {
    if (!rules.automatic)
      fail_parameter(
          kParam, "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set");
    out.format = rules.automatic;
  } else if (choice == "required") {
    out.format = ToolCallFormat::kList;
    out.arguments = StructuredOutput{Kind::kJsonSchema, call_list_schema(tools, out.parallel)};
  } else {
    choose_function(choice, tools, out);
  }
  return out;
}

}  // namespace polylora
