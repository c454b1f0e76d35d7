#include <string_view>
#include <utility>

#include "base/error.h"
#include "io/adapter_formats.h"
#include "io/gguf_checkpoint.h"

namespace polylora {
namespace {

/// The ends of tensor names. The first that fits wins.
struct Ending {
  std::string_view text;
  AdapterRole role, of_embedding;
};
constexpr Ending kEndings[] = {
    {".weight.lora_a", AdapterRole::kLoraA, AdapterRole::kEmbeddingA},
    {".weight.lora_b", AdapterRole::kLoraB, AdapterRole::kEmbeddingB},
    {".weight", AdapterRole::kWeight, AdapterRole::kWeight},  // a norm, as mergekit extracts it
};

void refuse_others(const GgufFile& gguf) {
  const std::string where = gguf.file().path().string();
  const auto* type = gguf.find<std::string>("general.type");
  if (type == nullptr || *type != "adapter") {
    fail(ErrorCode::kUnsupported, "{} is no adapter: its general.type is '{}'", where,
         type == nullptr ? "model" : *type);
  }
  const auto& kind = gguf.get<std::string>("adapter.type");
  if (kind != "lora")
    fail(ErrorCode::kUnsupported, "{}: adapter.type '{}' is not supported; only lora is", where, kind);
  if (gguf.find<std::vector<int64_t>>("adapter.alora.invocation_tokens") != nullptr)
    fail(ErrorCode::kUnsupported, "{}: activated LoRA (adapter.alora) is not supported", where);
}

AdapterConfig gguf_config(const GgufFile& gguf) {
  AdapterConfig config;
  const double* alpha = gguf.find<double>("adapter.lora.alpha");
  config.any_rank = true;
  config.lora_alpha = alpha == nullptr ? 0 : *alpha;  // llama.cpp takes an absent one for 0, too
  if (!(config.lora_alpha >= 0) || config.lora_alpha > kMaxLoraAlpha) {
    fail(ErrorCode::kDataCorrupt, "{}: adapter.lora.alpha must be a number from 0 to {:g}",
         gguf.file().path().string(), kMaxLoraAlpha);
  }
  return config;
}

/// llama.cpp converts the models of these architectures with q and k permuted (see gguf_checkpoint.cc).
bool is_interleaved(const std::string& architecture, std::string_view module) {
  return (architecture == "llama" || architecture == "mistral") &&
         (module.ends_with(".attn_q") || module.ends_with(".attn_k"));
}

class GgufAdapterReader {
 public:
  GgufAdapterReader(const GgufFile& gguf, int64_t head_dim)
      : where_(gguf.file().path().string()),
        architecture_(gguf.get<std::string>("general.architecture")),
        head_dim_(head_dim) {}

  AdapterPart part(const std::string& key, const TensorView& tensor) const {
    for (const Ending& ending : kEndings) {
      if (!key.ends_with(ending.text)) continue;
      const std::string_view module = std::string_view(key).substr(0, key.size() - ending.text.size());
      std::string path = hf_module_path(module, architecture_);
      if (path.empty()) break;
      const AdapterRole role = module == "token_embd" ? ending.of_embedding : ending.role;
      return {key, std::move(path), role, stored(key, module, role, tensor)};
    }
    fail(ErrorCode::kUnsupported, "{}: tensor {} is of no known kind (NAME.weight.lora_a, lora_b)", where_,
         key);
  }

 private:
  StoredTensor stored(const std::string& key, std::string_view module, AdapterRole role,
                      const TensorView& tensor) const {
    if (role == AdapterRole::kWeight) return stored_rows(tensor);
    if (tensor.shape.size() != 2) fail(ErrorCode::kDataCorrupt, "{}: tensor {} is no matrix", where_, key);
    if (role == AdapterRole::kEmbeddingA) return stored_transposed(tensor);
    if (role == AdapterRole::kLoraB && is_interleaved(architecture_, module)) return interleaved(key, tensor);
    return stored_rows(tensor);
  }

  StoredTensor interleaved(const std::string& key, const TensorView& tensor) const {
    if (head_dim_ < 2 || head_dim_ % 2 != 0 || tensor.shape[0] % head_dim_ != 0) {
      fail(ErrorCode::kDataCorrupt, "{}: {} rows of {} are no whole heads of this base model (head_dim {})",
           where_, tensor.shape[0], key, head_dim_);
    }
    return {tensor.shape, tensor, StoredLayout::kInterleavedHeads, head_dim_};
  }

  std::string where_, architecture_;
  int64_t head_dim_;
};

}  // namespace

AdapterSource open_gguf_adapter(const std::filesystem::path& file, int64_t head_dim) {
  AdapterSource source;
  source.path = source.config_path = file;
  source.gguf = std::make_unique<GgufFile>(file);
  refuse_others(*source.gguf);
  source.config = gguf_config(*source.gguf);
  const GgufAdapterReader reader(*source.gguf, head_dim);
  for (const auto& [key, tensor] : source.gguf->tensors()) source.parts.push_back(reader.part(key, tensor));
  return source;
}

}  // namespace polylora
