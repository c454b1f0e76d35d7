#include "serve/serve_context.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "serve/api_error.h"

namespace polylora {

namespace {

std::string base_names(const ServeContext& context) {
  std::vector<std::string> names;
  for (const ServedBase& base : context.bases)
    names.insert(names.end(), base.model.names.begin(), base.model.names.end());
  return fmt::format("{}", fmt::join(names, ", "));
}

[[noreturn]] void fail_unknown(const ServeContext& context, std::string_view name, std::string_view field) {
  throw RequestError(
      ErrorCode::kNotFound,
      fmt::format("The model `{}` does not exist. Valid aliases: {}.", name, base_names(context)),
      std::string(field));
}

const ServedBase& base_of(const ServeContext& context, const AdapterLease& lease) {
  return context.bases[adapter_base(lease)];
}

ModelChoice choose_adapter(const ServeContext& context, std::string echoed, std::string name,
                           AdapterLease lease) {
  const ServedBase& base = base_of(context, lease);
  std::shared_ptr<const ServedBase> own = context.texts.find(base, context.options, lease);
  return {own != nullptr ? own.get() : &base, std::move(echoed), std::move(name), std::move(lease),
          std::move(own)};
}

ModelChoice choose_stack(const ServeContext& context, std::string echoed,
                         std::span<const WeightedName> adapters, std::string_view field) {
  std::vector<StackTerm> members;
  for (const WeightedName& adapter : adapters) {
    members.push_back({context.registry.lease(adapter.name), adapter.weight});
    if (members.back().adapter == nullptr) fail_unknown(context, adapter.name, field);
  }
  if (members.size() == 1 && members.front().weight == 1.0f)
    return choose_adapter(context, std::move(echoed), adapters.front().name, members.front().adapter);
  return choose_adapter(context, std::move(echoed), kStackLabel, context.registry.stack(members));
}

/// `adapters` of a request that names the base model, or none.
ModelChoice choose_listed(const ServeContext& context, const ServedBase& base,
                          std::span<const WeightedName> adapters) {
  ModelChoice choice = choose_stack(context, base.name(), adapters, "adapters");
  if (choice.base->name() != base.name())
    fail_parameter("adapters", fmt::format("the adapters are for the base model `{}`, but `model` is `{}`.",
                                           choice.base->name(), base.name()));
  return choice;
}

std::vector<WeightedName> split_stack(std::string_view joined) {
  std::vector<WeightedName> names;
  for (size_t begin = 0; begin <= joined.size();) {
    const size_t end = std::min(joined.find('+', begin), joined.size());
    names.push_back({std::string(joined.substr(begin, end - begin)), 1.0f});
    begin = end + 1;
  }
  return names;
}

/// The adapter whose text side a request with this `model` is read by; null: the base model's.
AdapterLease text_adapter(const ServeContext& context, const std::string& name) {
  AdapterLease lease = context.registry.lease(name);
  return lease != nullptr ? lease : context.registry.lease(name.substr(0, name.find('+')));
}

std::string string_member(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

/// Whether answering needs files of an adapter that were not read yet. One adapter alone in `adapters` speaks
/// for itself, several as the base model does.
bool reads_files(const ServeContext& context, const Json& body) {
  if (!context.texts.is_read(text_adapter(context, string_member(body, "model")))) return true;
  const auto adapters = body.find("adapters");
  if (adapters == body.end() || !adapters->is_array() || adapters->size() != 1) return false;
  const Json& only = adapters->front();
  return only.is_object() && !context.texts.is_read(context.registry.lease(string_member(only, "name")));
}

}  // namespace

const ServedBase* find_base(const ServeContext& context, const std::string& name) {
  if (name.empty()) return &context.bases.front();
  const auto found = std::ranges::find_if(context.bases, [&](const ServedBase& base) {
    return std::ranges::find(base.model.names, name) != base.model.names.end();
  });
  return found == context.bases.end() ? nullptr : &*found;
}

ModelChoice choose_model(const ServeContext& context, const std::string& name,
                         std::span<const WeightedName> adapters) {
  if (const ServedBase* base = find_base(context, name)) {
    if (adapters.empty()) return {base, base->name(), "", nullptr, nullptr};
    return choose_listed(context, *base, adapters);
  }
  AdapterLease lease = context.registry.lease(name);
  const std::vector<WeightedName> joined = split_stack(name);
  const bool is_stack = joined.size() > 1 && joined.size() <= kMaxStackedAdapters;
  if (lease == nullptr && !is_stack) fail_unknown(context, name, "model");
  if (!adapters.empty())
    fail_parameter("adapters",
                   fmt::format("`adapters` goes with the base model, but `model` is `{}`; put all "
                               "adapters into the list.",
                               name));
  if (lease != nullptr) return choose_adapter(context, name, name, std::move(lease));
  return choose_stack(context, name, joined, "model");
}

RequestRules rules_for(const ServeContext& context, const Json& body) {
  const std::string name = string_member(body, "model");
  if (const ServedBase* base = find_base(context, name)) return base->rules;
  const AdapterLease lease = text_adapter(context, name);
  if (lease == nullptr) return context.bases.front().rules;
  const ServedBase& base = base_of(context, lease);
  const std::shared_ptr<const ServedBase> own = context.texts.find(base, context.options, lease);
  return own != nullptr ? own->rules : base.rules;
}

void prepare_answer(ServeContext& context, const std::shared_ptr<Exchange>& exchange,
                    std::function<void(const Json& body)> work) {
  const HttpRequest& http = exchange->request();
  require_json_content_type(http.headers.get("content-type"));
  if (http.body.size() > kInlineBodyBytes) {
    context.run_computing([exchange, work = std::move(work)] {
      answer_errors(exchange, [&] { work(parse_json_body(exchange->request().body)); });
    });
    return;
  }
  const auto body = std::make_shared<const Json>(parse_json_body(http.body));
  if (!reads_files(context, *body)) return work(*body);
  context.run_computing(
      [exchange, body, work = std::move(work)] { answer_errors(exchange, [&] { work(*body); }); });
}

}  // namespace polylora
