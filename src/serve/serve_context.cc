#include "serve/serve_context.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "serve/api_error.h"

namespace polylora {

ModelChoice choose_model(const ServeContext& context, const std::string& name) {
  const std::vector<std::string>& bases = context.model.names;
  if (name.empty() || std::ranges::find(bases, name) != bases.end()) return {bases.front(), "", nullptr};
  if (AdapterLease lease = context.registry.lease(name)) return {name, name, std::move(lease)};
  throw RequestError(
      ErrorCode::kNotFound,
      fmt::format("The model `{}` does not exist. Valid aliases: {}.", name, fmt::join(bases, ", ")),
      "model");
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
