#include "cli/fleet_flags.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "base/error.h"
#include "cli/config_file.h"
#include "cli/flag_set.h"

namespace polylora {
namespace {

BaseFlags shared_flags(const ServeFlags& all) {
  BaseFlags base = all;
  base.engine.kv_cache_bytes = 0;
  base.lora_modules.clear();
  base.lora_watch.clear();
  return base;
}

BaseFlags parse_base(const ServeFlags& all, const std::string& item, const std::string& where) {
  BaseFlags base = shared_flags(all);
  FlagSet flags("serve", "");
  add_base_flags(flags, base);
  ServeFlags unused;
  FlagSet server_flags("serve", "");
  add_serve_flags(server_flags, unused);
  flags.refuse_rest_of(server_flags, "it is for all bases together: put it beside `bases`");
  if (!flags.parse(merge_config(parse_config(item, where), {})))
    fail(ErrorCode::kInvalidArgument, "--help is for the command line");
  base.resolve();
  return base;
}

void check_names(const std::vector<BaseFlags>& bases) {
  std::set<std::string> names;
  for (const BaseFlags& base : bases) {
    for (const std::string& name : base.served_model_name) {
      if (names.insert(name).second) continue;
      fail(ErrorCode::kInvalidArgument, "two of the bases are called '{}'; give each a served-model-name",
           name);
    }
  }
}

}  // namespace

std::vector<BaseFlags> parse_bases(const ServeFlags& all) {
  if (!all.load.model.empty() || !all.served_model_name.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "models and their names stand either in `bases` or beside it, not both: move '{}' there",
         all.load.model.empty() ? all.served_model_name.front() : all.load.model);
  }
  std::vector<BaseFlags> bases;
  for (const std::string& item : all.bases) {
    const std::string where = fmt::format("bases[{}]", bases.size());
    try {
      bases.push_back(parse_base(all, item, where));
    } catch (const Error& error) {
      const std::string what = error.what();
      throw Error(error.code(), what.starts_with(where) ? what : where + ": " + what);
    }
  }
  check_names(bases);
  return bases;
}

}  // namespace polylora
