#include "io/peft_adapter.h"

#include <fmt/ranges.h>

#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/adapter_tensors.h"
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

void check_rank(const TensorView& tensor, size_t axis, int64_t rank, const std::string& where) {
  if (tensor.shape.size() == 2 && tensor.shape[axis] == rank) return;
  fail(ErrorCode::kDataCorrupt, "{} has shape [{}], but adapter_config.json says rank {}", where,
       fmt::join(tensor.shape, ", "), rank);
}

fs::path weights_path(const fs::path& folder) {
  const std::optional<fs::path> path = find_adapter_weights(folder);
  if (!path) fail(ErrorCode::kNotFound, "{} has no adapter_model.safetensors", folder.string());
  return *path;
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
    const std::string where = file_->file().path().string() + ": " + key;
    check_adapter_dtype(tensor, where);
    check_finite(tensor, where);
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
