#include "engine/adapter_lease.h"

#include "engine/adapter_generation.h"

namespace polylora {

const std::string& adapter_name(const AdapterLease& lease) {
  return lease->name;
}

const std::filesystem::path& adapter_path(const AdapterLease& lease) {
  return lease->path;
}

std::vector<std::string> adapter_names(const AdapterLease& lease) {
  if (lease->members.empty()) return {lease->name};
  std::vector<std::string> names;
  for (const StackTerm& member : lease->members) names.push_back(member.adapter->name);
  return names;
}

size_t adapter_base(const AdapterLease& lease) {
  return lease->base;
}

int adapter_vocab_size(const AdapterLease& lease, int base_vocab_size) {
  return lease == nullptr || lease->vocab_size == 0 ? base_vocab_size : lease->vocab_size;
}

uint64_t adapter_generation_id(const AdapterLease& lease) {
  return lease == nullptr ? 0 : lease->id;
}

uint64_t adapter_content_hash(const AdapterLease& lease) {
  return lease == nullptr ? 0 : lease->content_hash.load();
}

}  // namespace polylora
