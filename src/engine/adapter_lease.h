// Facts of a lease that others than the registry may read. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/request.h"

namespace polylora {

// Of an adapter or a stack:
const std::string& adapter_name(const AdapterLease& lease);
const std::filesystem::path& adapter_path(const AdapterLease& lease);  // empty: a stack
std::vector<std::string> adapter_names(const AdapterLease& lease);     // a stack's members'
size_t adapter_base(const AdapterLease& lease);                        // index of its base model

// Of the base model (null) too:
int adapter_vocab_size(const AdapterLease& lease, int base_vocab_size);  // token ids are below it
uint64_t adapter_generation_id(const AdapterLease& lease);  // unique per process; 0 for the base model
uint64_t adapter_content_hash(const AdapterLease& lease);   // 0 until its weights were first read

}  // namespace polylora
