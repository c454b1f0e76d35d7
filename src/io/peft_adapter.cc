#include "io/peft_adapter.h"

#include <fmt/ranges.h>

#include "base/error.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

using Slot = const TensorView* PeftModule::*;

Slot slot_of(AdapterRole role) {
  switch (role) {
    case AdapterRole::kLoraA:
    case AdapterRole::kEmbeddingA:
      return &PeftModule::a;
    case AdapterRole::kLoraB:
    case AdapterRole::kEmbeddingB:
      return &PeftModule::b;
    case AdapterRole::kLoraBias:
      return &PeftModule::b_bias;
    case AdapterRole::kMagnitude:
      return &PeftModule::magnitude;
    case AdapterRole::kWeight:
      return &PeftModule::new_weight;
    case AdapterRole::kBias:
      break;
  }
  return &PeftModule::new_bias;
}

bool is_of_embedding(AdapterRole role) {
  return role == AdapterRole::kEmbeddingA || role == AdapterRole::kEmbeddingB;
}

void check_rank(const TensorView& tensor, size_t axis, int64_t rank, const std::string& where) {
  if (rank > 0 && tensor.shape.size() == 2 && tensor.shape[axis] == rank) return;
  fail(ErrorCode::kDataCorrupt, "{} has shape [{}], which is not of rank {} as the adapter says", where,
       fmt::join(tensor.shape, ", "), rank);
}

}  // namespace

PeftAdapter::PeftAdapter(const fs::path& path, int64_t head_dim) : source_(open_adapter(path, head_dim)) {
  for (const AdapterPart& part : source_.parts) sort_in(part);
  source_.file().drop_pages();
  for (auto& [module_path, module] : modules_) finish(module_path, module);
  if (modules_.empty()) {
    fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no tensors", source_.file().path().string());
  }
}

void PeftAdapter::sort_in(const AdapterPart& part) {
  const std::string where = source_.file().path().string();
  const TensorView& values =
      views_.emplace_back(part.tensor.read(part.tensor.dtype(), rooms_.emplace_back()));
  check_finite(values, where + ": " + part.key);
  PeftModule& module = modules_[part.module_path];
  const Slot slot = slot_of(part.role);
  if (module.*slot != nullptr)
    fail(ErrorCode::kDataCorrupt, "{}: {} has LoRA of a linear and of an embedding", where, part.module_path);
  module.*slot = &values;
  module.is_embedding = module.is_embedding || is_of_embedding(part.role);
}

void PeftAdapter::finish(const std::string& path, PeftModule& module) const {
  const std::string where = source_.file().path().string() + ": " + path;
  if ((module.a == nullptr) != (module.b == nullptr)) {
    fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, module.a == nullptr ? "lora_A" : "lora_B");
  }
  if (module.a == nullptr) {
    if (module.b_bias == nullptr && module.magnitude == nullptr) return;
    fail(ErrorCode::kDataCorrupt, "{}: lora_A and lora_B are missing", where);
  }
  const std::vector<int64_t>& shape = module.a->shape;
  module.rank = source_.config.rank_of(path).value_or(shape.empty() ? 0 : shape.front());
  module.scale = source_.config.scale_of(path, module.rank);
  check_rank(*module.a, 0, module.rank, where + ".lora_A");
  check_rank(*module.b, 1, module.rank, where + ".lora_B");
  if (source_.config.use_dora != (module.magnitude != nullptr)) {
    fail(ErrorCode::kDataCorrupt, "{}: lora_magnitude_vector is {}, but adapter_config.json says use_dora {}",
         where, source_.config.use_dora ? "missing" : "there", source_.config.use_dora);
  }
}

}  // namespace polylora
