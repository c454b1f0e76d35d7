#include "io/adapter_file.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "io/adapter_config.h"
#include "io/adapter_tensors.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{256} << 10;  // real ones have a few KiB
constexpr int kLoadThreads =
    2;  // halves the wait for an adapter on an idle server, takes little from a busy one

/// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" taken apart.
struct TensorKey {
  std::string module_path;  // "model.layers.3.self_attn.q_proj"
  bool is_a = false;
};

/// PEFT's spelling; the adapter name ("default") may stand between lora_A and weight, the prefix may be
/// missing.
bool parse_key(std::string_view key, TensorKey& out) {
  constexpr std::string_view kPrefix = "base_model.model.";
  if (key.starts_with(kPrefix)) key.remove_prefix(kPrefix.size());
  for (const bool is_a : {true, false}) {
    const std::string_view infix = is_a ? ".lora_A." : ".lora_B.";
    const size_t at = key.find(infix);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = key.substr(at + infix.size());
    if (rest != "weight" && rest != "default.weight") return false;
    out = {std::string(key.substr(0, at)), is_a};
    return true;
  }
  return false;
}

/// What a tensor that is no LoRA pair tells about the adapter, for the refusal.
std::string_view explain_foreign_tensor(std::string_view key) {
  if (key.find("lora_magnitude_vector") != std::string_view::npos) return "DoRA is not supported yet";
  if (key.find("lora_embedding_") != std::string_view::npos)
    return "LoRA on embed_tokens is not supported yet";
  if (key.find("lm_head.lora_") != std::string_view::npos) return "LoRA on lm_head is not supported yet";
  if (key.find("modules_to_save") != std::string_view::npos) return "modules_to_save is not supported yet";
  if (key.ends_with(".bias")) return "adapters with biases are not supported yet";
  return "it is no LoRA tensor of a known module";
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

void check_shape(const TensorView& tensor, int64_t rows, int64_t cols, const std::string& where) {
  if (tensor.shape == std::vector<int64_t>{rows, cols}) return;
  fail(ErrorCode::kDataCorrupt, "{}: shape [{}] does not fit this base model, which wants [{}, {}]", where,
       fmt::join(tensor.shape, ", "), rows, cols);
}

/// The two tensors of one module.
struct FoundPair {
  const TensorView* a = nullptr;
  const TensorView* b = nullptr;
};

/// The pair's rank, after checking that both tensors are there, agree with it and fit the module.
int64_t check_pair(const FoundPair& pair, const LinearModule& module, int64_t config_rank,
                   const std::string& where) {
  if (pair.a == nullptr || pair.b == nullptr)
    fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, pair.a == nullptr ? "lora_A" : "lora_B");
  check_adapter_dtype(*pair.a, where + ".lora_A");
  check_adapter_dtype(*pair.b, where + ".lora_B");
  if (pair.a->dtype != pair.b->dtype)
    fail(ErrorCode::kUnsupported, "{}: lora_A and lora_B differ in dtype", where);
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
                   const ModelConfig& config, const std::string& where) {
  const bool any = std::any_of(addresses.begin(), addresses.end(),
                               [&](const auto& entry) { return targets.matches(entry.first); });
  if (any) return;
  std::vector<std::string_view> known;
  for (const LinearModule& module : linear_modules(config)) known.push_back(module.name);
  fail(ErrorCode::kUnsupported, "{}: target_modules {} names no linear layer of this base model; known: {}",
       where, targets.text, fmt::join(known, ", "));
}

fs::path weights_path(const fs::path& folder) {
  const std::optional<fs::path> path = find_adapter_weights(folder);
  if (!path) fail(ErrorCode::kNotFound, "No adapter found for {}", folder.string());
  return *path;
}

}  // namespace

AdapterFile::AdapterFile(const fs::path& folder, const ModelConfig& config)
    : folder_(folder), config_(config) {
  const fs::path config_path = folder / "adapter_config.json";
  if (!path_exists(config_path)) fail(ErrorCode::kNotFound, "No adapter found for {}", folder.string());
  config_text_ = read_text_file(config_path, kMaxConfigBytes);
  const AdapterConfig peft = parse_adapter_config(config_text_, config_path.string());
  base_model_name_ = peft.base_model_name;
  tensors_ = std::make_unique<SafetensorsFile>(weights_path(folder));
  resolve_pairs(peft);
}

void AdapterFile::resolve_pairs(const AdapterConfig& peft) {
  const std::string file = tensors_->file().path().string();
  const auto addresses = module_addresses(config_);
  const auto modules = linear_modules(config_);
  if (peft.target_modules) check_targets(*peft.target_modules, addresses, config_, folder_.string());

  std::map<std::string, FoundPair> found;  // by module path
  for (const auto& [key, tensor] : tensors_->tensors()) {
    TensorKey parsed;
    if (!parse_key(key, parsed) || !addresses.contains(parsed.module_path)) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} matches no module of the base model: {}", file, key,
           explain_foreign_tensor(key));
    }
    FoundPair& pair = found[parsed.module_path];
    const TensorView*& slot = parsed.is_a ? pair.a : pair.b;
    if (slot != nullptr) fail(ErrorCode::kDataCorrupt, "{}: tensor {} is there twice", file, key);
    slot = &tensor;
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
  const auto modules = linear_modules(config_);
  const auto element = static_cast<size_t>(dtype_block_bytes(dtype));
  size_t total = 0;
  for (const AdapterPair& pair : pairs_) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const int64_t padded_rank = (pair.rank + 15) / 16 * 16, padded_n = (module.n_count + 15) / 16 * 16;
    total += static_cast<size_t>(padded_rank * module.k + padded_n * pair.rank) * element;
  }
  return total;
}

uint64_t AdapterFile::content_hash() const {
  const uint64_t seed = hash_bytes(std::as_bytes(std::span(config_text_)));
  return hash_bytes(tensors_->file().bytes(), seed);
}

LoraSource AdapterFile::lora_source(std::span<const AdapterPair> pairs_of_site) const {
  const auto modules = linear_modules(config_);
  const LinearModule& first = modules[static_cast<size_t>(pairs_of_site.front().module)];
  LoraSource source{.k = first.k, .n = site_rows(config_, first.site), .pairs = {}};
  for (const AdapterPair& pair : pairs_of_site) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const std::string where = folder_.string() + ": " + module_path(pair.layer, module);
    check_finite(pair.a, where + ".lora_A");
    check_finite(pair.b, where + ".lora_B");
    source.pairs.push_back({module.n_begin, module.n_count, pair.rank, pair.scale, pair.a.data.data(),
                            pair.b.data.data(), pair.a.dtype});
  }
  return source;
}

/// Pairs are sorted by layer and module, so those of one fused linear stand next to each other.
std::vector<AdapterFile::SitePairs> AdapterFile::pairs_by_site() const {
  const auto modules = linear_modules(config_);
  std::vector<SitePairs> sites;
  for (const AdapterPair& pair : pairs_) {
    const Site site = modules[static_cast<size_t>(pair.module)].site;
    if (sites.empty() || sites.back().layer != pair.layer || sites.back().site != site)
      sites.push_back({pair.layer, site, std::span(&pair, 0)});
    sites.back().pairs = {sites.back().pairs.data(), sites.back().pairs.size() + 1};
  }
  return sites;
}

std::unique_ptr<Adapter> AdapterFile::load(Backend& backend, DType dtype) const {
  const std::vector<SitePairs> sites = pairs_by_site();
  auto adapter = std::make_unique<Adapter>(config_.num_layers);
  std::atomic<size_t> next{0};
  run_on_threads(kLoadThreads, [&](int) {
    for (size_t i; (i = next.fetch_add(1)) < sites.size();)
      adapter->set(sites[i].layer, sites[i].site, backend.pack_lora(lora_source(sites[i].pairs), dtype));
  });
  return adapter;
}

}  // namespace polylora
