#include "io/peft_adapter.h"

#include <fmt/ranges.h>

#include <cmath>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{256} << 10;

using Slot = const TensorView* PeftModule::*;

/// The ends of PEFT's tensor names, and what they mean. The first that fits wins.
struct Ending {
  std::string_view text;
  Slot slot;
  bool of_embedding = false;
};
constexpr Ending kEndings[] = {
    {".lora_A.weight", &PeftModule::a},
    {".lora_B.weight", &PeftModule::b},
    {".lora_B.bias", &PeftModule::b_bias},
    {".lora_embedding_A", &PeftModule::a, true},
    {".lora_embedding_B", &PeftModule::b, true},
    {".lora_magnitude_vector", &PeftModule::magnitude},
    {".lora_magnitude_vector.weight", &PeftModule::magnitude},
    {".base_layer.weight", &PeftModule::new_weight},
    {".base_layer.bias", &PeftModule::new_bias},
    {".modules_to_save.weight", &PeftModule::new_weight},
    {".modules_to_save.bias", &PeftModule::new_bias},
    {".weight", &PeftModule::new_weight},
    {".bias", &PeftModule::new_bias},
};

/// The adapter's name ("default") may stand inside a key that was not written by save_pretrained.
std::string without_adapter_name(std::string key) {
  constexpr std::string_view kName = ".default";
  const size_t at = key.rfind(kName);
  const size_t end = at == std::string::npos ? 0 : at + kName.size();
  if (at != std::string::npos && (end == key.size() || key[end] == '.')) key.erase(at, kName.size());
  return key;
}

void check_values(const TensorView& tensor, const std::string& where) {
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBf16) {
    fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported in adapters; use F32, F16 or BF16", where,
         dtype_name(tensor.dtype));
  }
  constexpr int64_t kChunk = 4096;
  const auto bytes = static_cast<int64_t>(dtype_block_bytes(tensor.dtype));
  const int64_t count = static_cast<int64_t>(tensor.data.size()) / bytes;
  std::vector<float> values(kChunk);
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t chunk = std::min(kChunk, count - begin);
    dequantize_row(tensor.dtype, tensor.data.data() + begin * bytes, chunk, values.data());
    for (int64_t i = 0; i < chunk; ++i) {
      if (!std::isfinite(values[static_cast<size_t>(i)]))
        fail(ErrorCode::kDataCorrupt, "{} holds NaN or infinity", where);
    }
  }
}

void check_rank(const TensorView& tensor, size_t axis, int64_t rank, const std::string& where) {
  if (tensor.shape.size() == 2 && tensor.shape[axis] == rank) return;
  fail(ErrorCode::kDataCorrupt, "{} has shape [{}], but adapter_config.json says rank {}", where,
       fmt::join(tensor.shape, ", "), rank);
}

fs::path weights_path(const fs::path& folder) {
  const fs::path path = folder / "adapter_model.safetensors";
  if (path_exists(path)) return path;
  if (path_exists(folder / "adapter_model.bin")) {
    fail(ErrorCode::kUnsupported,
         "{}: adapter_model.bin is pickled and not read; convert it to adapter_model.safetensors",
         folder.string());
  }
  fail(ErrorCode::kNotFound, "{} has no adapter_model.safetensors", folder.string());
}

}  // namespace

PeftAdapter::PeftAdapter(const fs::path& folder) : folder_(folder) {
  const fs::path config_path = folder / "adapter_config.json";
  if (!path_exists(config_path)) {
    fail(ErrorCode::kNotFound, "{} has no adapter_config.json: it is not an adapter folder", folder.string());
  }
  config_ = parse_adapter_config(read_text_file(config_path, kMaxConfigBytes), config_path.string(),
                                 AdapterUse::kMerge);
  file_ = std::make_unique<SafetensorsFile>(weights_path(folder));
  for (const auto& [key, tensor] : file_->tensors()) {
    check_values(tensor, file_->file().path().string() + ": " + key);
    sort_in(key, tensor);
  }
  file_->file().drop_pages();
  for (auto& [path, module] : modules_) finish(path, module);
  if (modules_.empty()) {
    fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no tensors", file_->file().path().string());
  }
}

void PeftAdapter::sort_in(const std::string& key, const TensorView& tensor) {
  constexpr std::string_view kPrefix = "base_model.model.";
  std::string name = without_adapter_name(key);
  if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  const std::string where = file_->file().path().string();
  for (const Ending& ending : kEndings) {
    if (!name.ends_with(ending.text)) continue;
    name.erase(name.size() - ending.text.size());
    PeftModule& module = modules_[name];
    if (module.*ending.slot != nullptr)
      fail(ErrorCode::kDataCorrupt, "{}: tensor {} is there twice", where, key);
    module.*ending.slot = &tensor;
    module.is_embedding = module.is_embedding || ending.of_embedding;
    return;
  }
  fail(ErrorCode::kUnsupported, "{}: tensor {} is of no known kind (LoRA, DoRA, bias, modules_to_save)",
       where, key);
}

void PeftAdapter::finish(const std::string& path, PeftModule& module) const {
  const std::string where = file_->file().path().string() + ": " + path;
  if ((module.a == nullptr) != (module.b == nullptr)) {
    fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, module.a == nullptr ? "lora_A" : "lora_B");
  }
  if (module.a == nullptr) {
    if (module.b_bias == nullptr && module.magnitude == nullptr) return;
    fail(ErrorCode::kDataCorrupt, "{}: lora_A and lora_B are missing", where);
  }
  module.rank = config_.rank_of(path);
  module.scale = config_.scale_of(path);
  check_rank(*module.a, 0, module.rank, where + ".lora_A");
  check_rank(*module.b, 1, module.rank, where + ".lora_B");
  if (config_.use_dora != (module.magnitude != nullptr)) {
    fail(ErrorCode::kDataCorrupt, "{}: lora_magnitude_vector is {}, but adapter_config.json says use_dora {}",
         where, config_.use_dora ? "missing" : "there", config_.use_dora);
  }
}

}  // namespace polylora
