#include "io/adapter_file.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "io/adapter_config.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr int kLoadThreads =
    2;  // halves the wait for an adapter on an idle server, takes little from a busy one

void refuse_unserved(const AdapterConfig& config, const std::string& where) {
  const auto refuse = [&](std::string_view feature) {
    fail(ErrorCode::kUnsupported, "{}: {} is not supported yet", where, feature);
  };
  if (config.use_dora) refuse("DoRA (use_dora)");
  if (config.lora_bias) refuse("lora_bias");
  if (config.fan_in_fan_out) refuse("fan_in_fan_out");
  if (!config.modules_to_save.empty()) refuse("modules_to_save");
  if (config.bias != "none") refuse("bias '" + config.bias + "'");
}

/// Why a tensor cannot be served; empty when it can, given a module to go with.
std::string_view refusal_of(const AdapterPart& part) {
  switch (part.role) {
    case AdapterRole::kMagnitude:
      return "DoRA is not supported yet";
    case AdapterRole::kEmbeddingA:
    case AdapterRole::kEmbeddingB:
      return "LoRA on embed_tokens is not supported yet";
    case AdapterRole::kWeight:
      return "modules trained in full (modules_to_save) are not supported yet";
    case AdapterRole::kLoraBias:
    case AdapterRole::kBias:
      return "adapters with biases are not supported yet";
    case AdapterRole::kLoraA:
    case AdapterRole::kLoraB:
      break;
  }
  return part.module_path.ends_with("lm_head") ? "LoRA on lm_head is not supported yet" : "";
}

struct ModuleAddress {
  int layer = 0;
  int module = 0;
};

std::map<std::string, ModuleAddress> module_addresses(const ModelConfig& config) {
  std::map<std::string, ModuleAddress> addresses;
  const auto modules = linear_modules(config);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (int m = 0; m < static_cast<int>(modules.size()); ++m) {
      addresses[module_path(layer, modules[static_cast<size_t>(m)])] = {layer, m};
    }
  }
  return addresses;
}

void check_shape(const StoredTensor& tensor, int64_t rows, int64_t cols, const std::string& where) {
  if (tensor.shape == std::vector<int64_t>{rows, cols}) return;
  fail(ErrorCode::kDataCorrupt, "{}: shape [{}] does not fit this base model, which wants [{}, {}]", where,
       fmt::join(tensor.shape, ", "), rows, cols);
}

/// The two tensors of one module.
struct FoundPair {
  const StoredTensor* a = nullptr;
  const StoredTensor* b = nullptr;
};

/// The pair's rank, after checking that both tensors are there, agree with it and fit the module.
int64_t check_pair(const FoundPair& pair, const LinearModule& module, int64_t config_rank,
                   const std::string& where) {
  if (pair.a == nullptr || pair.b == nullptr)
    fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, pair.a == nullptr ? "lora_A" : "lora_B");
  const int64_t rank = pair.a->shape.empty() ? 0 : pair.a->shape.front();
  if (rank != config_rank) {
    fail(ErrorCode::kDataCorrupt, "{}.lora_A has rank {}, but adapter_config.json says {}", where, rank,
         config_rank);
  }
  check_shape(*pair.a, rank, module.k, where + ".lora_A");
  check_shape(*pair.b, module.n_count, rank, where + ".lora_B");
  return rank;
}

void check_targets(const TargetModules& targets, const std::map<std::string, ModuleAddress>& addresses,
                   const std::string& where) {
  const bool any = std::any_of(addresses.begin(), addresses.end(),
                               [&](const auto& entry) { return targets.matches(entry.first); });
  if (any) return;
  fail(ErrorCode::kUnsupported,
       "{}: target_modules {} names no linear layer of this base model; known: q_proj, k_proj, v_proj, "
       "o_proj, "
       "gate_proj, up_proj, down_proj",
       where, targets.text);
}

}  // namespace

AdapterFile::AdapterFile(const fs::path& path, const ModelConfig& config)
    : source_(open_adapter(path)), model_(config) {
  refuse_unserved(source_.config, source_.config_path.string());
  resolve_pairs();
}

void AdapterFile::resolve_pairs() {
  const std::string file = source_.file().path().string();
  const auto addresses = module_addresses(model_);
  const auto modules = linear_modules(model_);
  const AdapterConfig& peft = source_.config;
  if (peft.target_modules) check_targets(*peft.target_modules, addresses, source_.path.string());

  std::map<std::string, FoundPair> found;  // by module path
  for (const AdapterPart& part : source_.parts) {
    const std::string_view refusal = refusal_of(part);
    if (!refusal.empty()) fail(ErrorCode::kUnsupported, "{}: tensor {}: {}", file, part.key, refusal);
    if (!addresses.contains(part.module_path))
      fail(ErrorCode::kUnsupported, "{}: tensor {} matches no module of the base model", file, part.key);
    FoundPair& pair = found[part.module_path];
    (part.role == AdapterRole::kLoraA ? pair.a : pair.b) = &part.tensor;
  }
  if (found.empty()) fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no LoRA tensors", file);

  for (const auto& [path, pair] : found) {
    const ModuleAddress address = addresses.at(path);
    const LinearModule& module = modules[static_cast<size_t>(address.module)];
    const int64_t rank = check_pair(pair, module, peft.rank_of(path), file + ": " + path);
    pairs_.push_back({address.layer, address.module, rank, peft.scale_of(path), *pair.a, *pair.b});
    max_rank_ = std::max(max_rank_, rank);
  }
  const auto order = [](const AdapterPair& pair) { return std::pair(pair.layer, pair.module); };
  std::sort(pairs_.begin(), pairs_.end(), [&](const auto& x, const auto& y) { return order(x) < order(y); });
}

size_t AdapterFile::packed_bytes(DType dtype) const {
  const auto modules = linear_modules(model_);
  const auto element = static_cast<size_t>(dtype_block_bytes(dtype));
  size_t total = 0;
  for (const AdapterPair& pair : pairs_) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const int64_t padded_rank = (pair.rank + 15) / 16 * 16, padded_n = (module.n_count + 15) / 16 * 16;
    total += static_cast<size_t>(padded_rank * module.k + padded_n * pair.rank) * element;
  }
  return total;
}

/// Pairs are sorted by layer and module, so those of one fused linear stand next to each other.
std::vector<AdapterFile::SitePairs> AdapterFile::pairs_by_site() const {
  const auto modules = linear_modules(model_);
  std::vector<SitePairs> sites;
  for (const AdapterPair& pair : pairs_) {
    const Site site = modules[static_cast<size_t>(pair.module)].site;
    if (sites.empty() || sites.back().layer != pair.layer || sites.back().site != site)
      sites.push_back({pair.layer, site, std::span(&pair, 0)});
    sites.back().pairs = {sites.back().pairs.data(), sites.back().pairs.size() + 1};
  }
  return sites;
}

std::unique_ptr<LoraWeight> AdapterFile::load_site(const SitePairs& site, Backend& backend,
                                                   DType dtype) const {
  const auto modules = linear_modules(model_);
  const LinearModule& first = modules[static_cast<size_t>(site.pairs.front().module)];
  LoraSource source{.k = first.k, .n = site_rows(model_, site.site), .pairs = {}};
  std::vector<std::vector<std::byte>> rooms(2 * site.pairs.size());
  for (size_t i = 0; i < site.pairs.size(); ++i) {
    const AdapterPair& pair = site.pairs[i];
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const std::string where = source_.path.string() + ": " + module_path(pair.layer, module);
    const TensorView a = pair.a.read(pair.dtype(), rooms[2 * i]),
                     b = pair.b.read(pair.dtype(), rooms[2 * i + 1]);
    check_finite(a, where + ".lora_A");
    check_finite(b, where + ".lora_B");
    source.pairs.push_back(
        {module.n_begin, module.n_count, pair.rank, pair.scale, a.data.data(), b.data.data(), pair.dtype()});
  }
  return backend.pack_lora(source, dtype);
}

std::unique_ptr<Adapter> AdapterFile::load(Backend& backend, DType dtype) const {
  const std::vector<SitePairs> sites = pairs_by_site();
  auto adapter = std::make_unique<Adapter>(model_.num_layers);
  std::atomic<size_t> next{0};
  run_on_threads(kLoadThreads, [&](int) {
    for (size_t i; (i = next.fetch_add(1)) < sites.size();)
      adapter->set(sites[i].layer, sites[i].site, load_site(sites[i], backend, dtype));
  });
  return adapter;
}

}  // namespace polylora
