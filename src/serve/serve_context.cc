#include "serve/serve_context.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "serve/api_error.h"

namespace polylora {

namespace {

[[noreturn]] void fail_unknown(const ServeContext& context, std::string_view name, std::string_view field) {
  throw RequestError(ErrorCode::kNotFound,
                     fmt::format("The model `{}` does not exist. Valid aliases: {}.", name,
                                 fmt::join(context.model.names, ", ")),
                     std::string(field));
}

ModelChoice choose_stack(const ServeContext& context, std::string echoed,
                         std::span<const WeightedName> adapters, std::string_view field) {
  std::vector<StackTerm> members;
  for (const WeightedName& adapter : adapters) {
    members.push_back({context.registry.lease(adapter.name), adapter.weight});
    if (members.back().adapter == nullptr) fail_unknown(context, adapter.name, field);
  }
  if (members.size() == 1 && members.front().weight == 1.0f)
    return {std::move(echoed), adapters.front().name, members.front().adapter};
  return {std::move(echoed), kStackLabel, context.registry.stack(members)};
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

}  // namespace

ModelChoice choose_model(const ServeContext& context, const std::string& name,
                         std::span<const WeightedName> adapters) {
  const std::vector<std::string>& bases = context.model.names;
  if (name.empty() || std::ranges::find(bases, name) != bases.end()) {
    if (adapters.empty()) return {bases.front(), "", nullptr};
    return choose_stack(context, bases.front(), adapters, "adapters");
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
  if (lease != nullptr) return {name, name, std::move(lease)};
  return choose_stack(context, name, joined, "model");
}

void prepare_answer(ServeContext& context, const std::shared_ptr<Exchange>& exchange,
                    std::function<void()> work) {
  auto guarded = [exchange, work = std::move(work)] { answer_errors(exchange, work); };
  if (exchange->request().body.size() <= kInlineBodyBytes)
    guarded();
  else
    context.run_computing(std::move(guarded));
}

}  // namespace polylora
