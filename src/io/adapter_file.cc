#include "io/adapter_file.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "io/adapter_config.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

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
  const bool readable =
      tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBf16;
  if (!readable) {
    fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported in adapters; use F32, F16 or BF16", where,
         dtype_name(tensor.dtype));
  }
  if (tensor.shape != std::vector<int64_t>{rows, cols}) {
    fail(ErrorCode::kDataCorrupt, "{}: shape [{}] does not fit this base model, which wants [{}, {}]", where,
         fmt::join(tensor.shape, ", "), rows, cols);
  }
}

void check_finite(const TensorView& tensor, std::string_view what, const std::string& where) {
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    dequantize_row(tensor.dtype,
                   tensor.data.data() + static_cast<size_t>(r) * dtype_row_bytes(tensor.dtype, cols), cols,
                   row.data());
    for (const float value : row) {
      if (!std::isfinite(value)) fail(ErrorCode::kDataCorrupt, "{}: {} holds NaN or infinity", where, what);
    }
  }
}

fs::path weights_path(const fs::path& folder) {
  const fs::path path = folder / "adapter_model.safetensors";
  if (!fs::exists(path) && fs::exists(folder / "adapter_model.bin")) {
    fail(ErrorCode::kUnsupported,
         "{}: adapter_model.bin is pickled and not read; convert it to adapter_model.safetensors",
         folder.string());
  }
  if (!fs::exists(path)) fail(ErrorCode::kNotFound, "No adapter found for {}", folder.string());
  return path;
}

}  // namespace

AdapterFile::AdapterFile(const fs::path& folder, const ModelConfig& config)
    : folder_(folder), config_(config) {
  if (!fs::exists(folder / "adapter_config.json"))
    fail(ErrorCode::kNotFound, "No adapter found for {}", folder.string());
  config_text_ = read_text_file(folder / "adapter_config.json", size_t{16} << 20);
  const AdapterConfig peft = parse_adapter_config(config_text_, (folder / "adapter_config.json").string());
  base_model_name_ = peft.base_model_name;
  tensors_ = std::make_unique<SafetensorsFile>(weights_path(folder));
  resolve_pairs(peft);
}

void AdapterFile::resolve_pairs(const AdapterConfig& peft) {
  const std::string file = tensors_->file().path().string();
  const auto addresses = module_addresses(config_);
  const auto modules = linear_modules(config_);
  std::map<std::string, std::array<const TensorView*, 2>> found;  // module path -> A, B
  for (const auto& [key, tensor] : tensors_->tensors()) {
    TensorKey parsed;
    if (!parse_key(key, parsed) || !addresses.contains(parsed.module_path)) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} matches no module of the base model: {}", file, key,
           explain_foreign_tensor(key));
    }
    found[parsed.module_path][parsed.is_a ? 0 : 1] = &tensor;
  }
  if (found.empty()) fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no LoRA tensors", file);

  for (const auto& [path, tensors] : found) {
    const std::string where = file + ": " + path;
    if (tensors[0] == nullptr || tensors[1] == nullptr) {
      fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, tensors[0] == nullptr ? "lora_A" : "lora_B");
    }
    const ModuleAddress address = addresses.at(path);
    const LinearModule& module = modules[static_cast<size_t>(address.module)];
    const int64_t rank = peft.rank_of(path);
    check_shape(*tensors[0], rank, module.k, where + ".lora_A");
    check_shape(*tensors[1], module.n_count, rank, where + ".lora_B");
    pairs_.push_back({address.layer, address.module, rank, peft.scale_of(path), *tensors[0], *tensors[1]});
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

std::unique_ptr<Adapter> AdapterFile::load(Backend& backend, DType dtype) const {
  const auto modules = linear_modules(config_);
  auto adapter = std::make_unique<Adapter>(config_.num_layers);
  for (size_t begin = 0; begin < pairs_.size();) {
    const int layer = pairs_[begin].layer;
    const Site site = modules[static_cast<size_t>(pairs_[begin].module)].site;
    LoraSource source{.k = modules[static_cast<size_t>(pairs_[begin].module)].k,
                      .n = site_rows(config_, site),
                      .pairs = {}};
    size_t end = begin;
    for (; end < pairs_.size() && pairs_[end].layer == layer; ++end) {
      const AdapterPair& pair = pairs_[end];
      const LinearModule& module = modules[static_cast<size_t>(pair.module)];
      if (module.site != site) break;
      const std::string where = folder_.string() + ": " + module_path(layer, module);
      check_finite(pair.a, "lora_A", where);
      check_finite(pair.b, "lora_B", where);
      if (pair.a.dtype != pair.b.dtype)
        fail(ErrorCode::kUnsupported, "{}: lora_A and lora_B differ in dtype", where);
      source.pairs.push_back({module.n_begin, module.n_count, pair.rank, pair.scale, pair.a.data.data(),
                              pair.b.data.data(), pair.a.dtype});
    }
    adapter->set(layer, site, backend.pack_lora(source, dtype));
    begin = end;
  }
  return adapter;
}

}  // namespace polylora
