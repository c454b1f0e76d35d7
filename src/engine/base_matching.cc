#include "engine/base_matching.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

const std::string& display_name(const AdapterBase& base) {
  static const std::string unnamed = "(unnamed)";
  return base.names.empty() ? unnamed : base.names.front();
}

bool has_name(const AdapterBase& base, const std::string& name) {
  return std::ranges::find(base.names, name) != base.names.end();
}

bool is_called(const AdapterBase& base, const std::string& name) {
  return has_name(base, name) ||
         (!base.path.empty() && base.path.lexically_normal() == fs::path(name).lexically_normal());
}

/// "org/name/" -> "name".
std::string last_part(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal.filename() : normal.parent_path().filename();
}

bool ends_alike(const AdapterBase& base, const std::string& name) {
  const std::string last = last_part(name);
  if (last.empty()) return false;
  const auto same = [&](const fs::path& other) { return last_part(other) == last; };
  return same(base.path) || std::ranges::any_of(base.names, same);
}

size_t named_base(const std::string& name, std::span<const AdapterBase> bases) {
  for (size_t i = 0; i < bases.size(); ++i)
    if (has_name(bases[i], name)) return i;
  std::vector<std::string> known;
  for (const AdapterBase& base : bases) known.insert(known.end(), base.names.begin(), base.names.end());
  fail(ErrorCode::kInvalidArgument, "base_model_name '{}' is not one of the base models served here: {}",
       name, fmt::join(known, ", "));
}

/// What opening an adapter against each base gave.
struct Fits {
  std::vector<MatchedAdapter> fitting;
  std::vector<Error> refusals;  // of the others, in order
  std::vector<size_t> refused;
};

Fits try_all(const fs::path& adapter, std::span<const AdapterBase> bases) {
  Fits fits;
  for (size_t i = 0; i < bases.size(); ++i) {
    try {
      fits.fitting.push_back({i, AdapterFile(adapter, bases[i].model->config)});
    } catch (const Error& error) {
      fits.refusals.push_back(error);
      fits.refused.push_back(i);
    }
  }
  return fits;
}

[[noreturn]] void fail_no_fit(const Fits& fits, std::span<const AdapterBase> bases) {
  const Error& first = fits.refusals.front();
  const auto same = [&](const Error& other) { return std::string(other.what()) == first.what(); };
  if (std::ranges::all_of(fits.refusals, same)) throw Error(first);  // not about any base in particular
  std::vector<std::string> reasons;
  for (size_t i = 0; i < fits.refused.size(); ++i)
    reasons.push_back(fmt::format("{}: {}", display_name(bases[fits.refused[i]]), fits.refusals[i].what()));
  fail(ErrorCode::kInvalidArgument, "the adapter fits none of the base models: {}", fmt::join(reasons, "; "));
}

/// Keeps those for which `holds`, if there are any.
void narrow(std::vector<MatchedAdapter>& candidates,
            const std::function<bool(const MatchedAdapter&)>& holds) {
  if (candidates.size() > 1 && std::ranges::any_of(candidates, holds))
    std::erase_if(candidates, [&](const MatchedAdapter& candidate) { return !holds(candidate); });
}

}  // namespace

MatchedAdapter match_base(const fs::path& adapter, const std::string& base_model_name,
                          std::span<const AdapterBase> bases) {
  check(!bases.empty(), "adapters need a base model");
  if (bases.size() == 1) return {0, AdapterFile(adapter, bases.front().model->config)};
  if (!base_model_name.empty()) {
    const size_t base = named_base(base_model_name, bases);
    return {base, AdapterFile(adapter, bases[base].model->config)};
  }
  Fits fits = try_all(adapter, bases);
  std::vector<MatchedAdapter>& candidates = fits.fitting;
  if (candidates.empty()) fail_no_fit(fits, bases);
  const std::string trained_on = candidates.front().file.base_model_name();
  const std::string fingerprint = candidates.front().file.base_fingerprint();
  const auto base_of = [&](const MatchedAdapter& candidate) -> const AdapterBase& {
    return bases[candidate.base];
  };
  narrow(candidates, [&](const auto& candidate) { return is_called(base_of(candidate), trained_on); });
  narrow(candidates, [&](const auto& candidate) { return ends_alike(base_of(candidate), trained_on); });
  narrow(candidates, [&](const auto& candidate) {
    return !fingerprint.empty() && base_of(candidate).fingerprint == fingerprint;
  });
  if (candidates.size() == 1) return std::move(candidates.front());

  std::vector<std::string> names;
  for (const MatchedAdapter& candidate : candidates) names.push_back(display_name(base_of(candidate)));
  fail(ErrorCode::kInvalidArgument,
       "the adapter fits several base models ({}) and does not tell which it was trained on; name one with "
       "base_model_name",
       fmt::join(names, ", "));
}

}  // namespace polylora
