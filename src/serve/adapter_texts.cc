#include "serve/adapter_texts.h"

#include "serve/serve_context.h"

namespace polylora {
namespace {

/// What the pointers in a ServedBase point to, and the ServedBase itself.
struct OwnedBase {
  OwnText text;
  std::optional<ServedBase> base;
};

std::shared_ptr<const ServedBase> make_base(const ServedBase& base, const ServerOptions& options,
                                            OwnText text) {
  const auto owned = std::make_shared<OwnedBase>(OwnedBase{std::move(text), std::nullopt});
  const ServedModel& model = owned->text.model;
  owned->base.emplace(ServedBase{model, base.engine,
                                 request_rules(options, model, base.engine.options().priority_scheduling),
                                 std::make_unique<GrammarCache>(model.tokenizer)});
  return {owned, &*owned->base};
}

}  // namespace

std::shared_ptr<const ServedBase> AdapterTexts::find(const ServedBase& base, const ServerOptions& options,
                                                     const AdapterLease& adapter) {
  if (!may_have_own(adapter)) return nullptr;
  const uint64_t generation = adapter_generation_id(adapter);
  {
    const std::scoped_lock lock(mutex_);
    const auto found = by_generation_.find(generation);
    if (found != by_generation_.end()) return found->second;
  }
  std::optional<OwnText> text = load_(adapter_path(adapter), base.model);
  std::shared_ptr<const ServedBase> own = text ? make_base(base, options, std::move(*text)) : nullptr;
  const std::scoped_lock lock(mutex_);
  if (by_generation_.size() >= kMaxTexts) by_generation_.clear();
  by_generation_[generation] = own;
  return own;
}

bool AdapterTexts::is_read(const AdapterLease& adapter) const {
  if (!may_have_own(adapter)) return true;
  const std::scoped_lock lock(mutex_);
  return by_generation_.contains(adapter_generation_id(adapter));
}

/// The base model and stacks have no folder.
bool AdapterTexts::may_have_own(const AdapterLease& adapter) const {
  return load_ && adapter != nullptr && !adapter_path(adapter).empty();
}

}  // namespace polylora
