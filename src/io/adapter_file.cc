#include "io/adapter_file.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "io/adapter_config.h"
#include "io/adapter_keys.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr std::string_view kEmbedding = "model.embed_tokens";
constexpr std::string_view kLmHead = "lm_head";

struct ModuleAddress {
  int layer = 0;
  int module = 0;
};

/// The linear modules of a base by their path.
class ModuleAddresses {
 public:
  ModuleAddresses(const std::vector<LinearModule>& modules, int layers) : layers_(layers) {
    for (const LinearModule& module : modules)
      modules_.emplace(module.path, static_cast<int>(modules_.size()));
  }

  /// Of "model.layers.3.self_attn.q_proj".
  std::optional<ModuleAddress> find(std::string_view path) const {
    if (!path.starts_with(kPrefix)) return std::nullopt;
    path.remove_prefix(kPrefix.size());
    const std::string_view number = path.substr(0, path.find('.'));
    int layer = -1;
    std::from_chars(number.data(), number.data() + number.size(), layer);
    if (layer < 0 || layer >= layers_ || number != std::to_string(layer)) return std::nullopt;
    const auto found = modules_.find(path.substr(std::min(path.size(), number.size() + 1)));
    if (found == modules_.end()) return std::nullopt;
    return ModuleAddress{layer, found->second};
  }

 private:
  static constexpr std::string_view kPrefix = "model.layers.";

  std::map<std::string, int, std::less<>> modules_;  // within a layer
  int layers_;
};

/// 1-D tensors: cols is 0.
void check_shape(const StoredTensor& tensor, int64_t rows, int64_t cols, const std::string& where) {
  const std::vector<int64_t> wanted =
      cols == 0 ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, cols};
  if (tensor.shape == wanted) return;
  fail(ErrorCode::kDataCorrupt, "{}: shape [{}] does not fit this base model, which wants [{}]", where,
       fmt::join(tensor.shape, ", "), fmt::join(wanted, ", "));
}

/// What the file holds for one module.
struct FoundModule {
  std::string peft_path;  // what rank_pattern and alpha_pattern match
  std::map<AdapterRole, const AdapterPart*> parts;

  std::optional<StoredTensor> take(AdapterRole role) {
    const auto found = parts.find(role);
    if (found == parts.end()) return std::nullopt;
    const StoredTensor tensor = found->second->tensor;
    parts.erase(found);
    return tensor;
  }
};

/// The two tensors of a pair, or neither.
struct FoundPair {
  std::optional<StoredTensor> a, b;
  int64_t rank = 0;

  FoundPair(FoundModule& found, AdapterRole a_role, AdapterRole b_role, const AdapterConfig& peft,
            const std::string& where)
      : a(found.take(a_role)), b(found.take(b_role)) {
    if (!a && !b) return;
    if (!a || !b)
      fail(ErrorCode::kDataCorrupt, "{}: {} is missing", where, adapter_role_name(a ? b_role : a_role));
    rank = a->shape.empty() ? 0 : a->shape.front();
    const std::optional<int64_t> expected = peft.rank_of(found.peft_path);
    if (expected && rank != *expected) {
      fail(ErrorCode::kDataCorrupt, "{}.lora_A has rank {}, but adapter_config.json says {}", where, rank,
           *expected);
    }
  }
};

/// embed_tokens or lm_head.
AdapterMatrix take_matrix(FoundModule& found, AdapterRole a_role, AdapterRole b_role,
                          const AdapterConfig& peft, const ModelConfig& model, const std::string& where) {
  AdapterMatrix matrix{.full = found.take(AdapterRole::kWeight), .a = {}, .b = {}};
  if (matrix.full) {
    const int64_t rows = matrix.full->shape.empty() ? 0 : matrix.full->shape.front();
    check_shape(*matrix.full, std::clamp<int64_t>(rows, 1, kMaxVocabulary), model.hidden_size, where);
  }
  FoundPair pair(found, a_role, b_role, peft, where);
  if (!pair.a) return matrix;
  const int64_t vocabulary = matrix.full ? matrix.full->shape.front() : model.vocab_size;
  const bool embeds = a_role == AdapterRole::kEmbeddingA;
  check_shape(*pair.a, pair.rank, embeds ? vocabulary : model.hidden_size, where + " A");
  check_shape(*pair.b, embeds ? model.hidden_size : vocabulary, pair.rank, where + " B");
  matrix.rank = pair.rank;
  matrix.scale = peft.scale_of(found.peft_path, pair.rank);
  matrix.a = std::move(pair.a);
  matrix.b = std::move(pair.b);
  return matrix;
}

/// The pair of a linear; empty when the file has none for it.
std::optional<AdapterPair> take_pair(FoundModule& found, ModuleAddress address, const LinearModule& module,
                                     const AdapterConfig& peft, const std::string& where) {
  FoundPair pair(found, AdapterRole::kLoraA, AdapterRole::kLoraB, peft, where);
  if (!pair.a) return std::nullopt;
  check_shape(*pair.a, pair.rank, module.k, where + ".lora_A");
  check_shape(*pair.b, module.n_count, pair.rank, where + ".lora_B");
  AdapterPair taken{.layer = address.layer,
                    .module = address.module,
                    .rank = pair.rank,
                    .scale = peft.scale_of(found.peft_path, pair.rank),
                    .a = std::move(*pair.a),
                    .b = std::move(*pair.b),
                    .magnitude = found.take(AdapterRole::kMagnitude),
                    .bias = found.take(AdapterRole::kLoraBias)};
  if (taken.magnitude) check_shape(*taken.magnitude, module.n_count, 0, where + ".lora_magnitude_vector");
  if (taken.bias) check_shape(*taken.bias, module.n_count, 0, where + ".lora_B.bias");
  if (peft.use_dora && !taken.magnitude)
    fail(ErrorCode::kDataCorrupt, "{}: use_dora, but lora_magnitude_vector is missing", where);
  return taken;
}

/// The same matrix with rows and columns exchanged.
StoredTensor transposed(StoredTensor tensor) {
  std::swap(tensor.shape[0], tensor.shape[1]);
  tensor.layout = tensor.layout == StoredLayout::kRows ? StoredLayout::kTransposed : StoredLayout::kRows;
  return tensor;
}

/// A tied lm_head follows the embedding.
AdapterMatrix head_tied_to(const AdapterMatrix& embedding) {
  AdapterMatrix head{
      .full = embedding.full, .a = {}, .b = {}, .rank = embedding.rank, .scale = embedding.scale};
  if (embedding.a) head.a = transposed(*embedding.b), head.b = transposed(*embedding.a);
  return head;
}

/// target_modules must reach something here: else the adapter is another architecture's.
void check_targets(const AdapterSource& source, const ModuleAddresses& addresses, const ModelConfig& model) {
  if (!source.config.target_modules) return;
  const TargetModules& targets = *source.config.target_modules;
  const bool any = std::any_of(source.parts.begin(), source.parts.end(), [&](const AdapterPart& part) {
    const std::string path = text_module_path(part.module_path);
    return (addresses.find(path) || path == kEmbedding || path == kLmHead) &&
           targets.matches(part.module_path);
  });
  if (any) return;
  fail(ErrorCode::kUnsupported,
       "{}: target_modules {} names no linear layer of this base model; known: {}, embed_tokens, lm_head",
       source.path.string(), targets.text, fmt::join(module_names(model), ", "));
}

/// layers_to_transform speaks of LoRA only, not of modules trained whole or of biases.
void check_layer(const AdapterSource& source, const AdapterPart& part) {
  const auto& targets = source.config.target_modules;
  if (part.role == AdapterRole::kWeight || part.role == AdapterRole::kBias || !targets) return;
  if (targets->includes_layer_of(part.module_path)) return;
  fail(ErrorCode::kDataCorrupt, "{}: tensor {} is of a layer that layers_to_transform leaves out",
       source.file().path().string(), part.key);
}

/// By their path in the text model.
std::map<std::string, FoundModule> find_modules(const AdapterSource& source) {
  std::map<std::string, FoundModule> found;
  for (const AdapterPart& part : source.parts) {
    check_layer(source, part);
    FoundModule& module = found[text_module_path(part.module_path)];
    module.peft_path = part.module_path;
    const auto [other, is_new] = module.parts.try_emplace(part.role, &part);
    if (is_new) continue;
    fail(ErrorCode::kDataCorrupt, "{}: tensor {} is there twice, as {} too", source.file().path().string(),
         part.key, other->second->key);
  }
  return found;
}

}  // namespace

AdapterFile::AdapterFile(const fs::path& path, const ModelConfig& config)
    : source_(open_adapter(path, config.head_dim)), model_(config) {
  if (source_.config.fan_in_fan_out) {
    fail(ErrorCode::kUnsupported, "{}: fan_in_fan_out is for models that are not served here",
         source_.config_path.string());
  }
  resolve();
}

void AdapterFile::resolve() {
  const std::string file = source_.file().path().string();
  const auto modules = linear_modules(model_);
  const ModuleAddresses addresses(modules, model_.num_layers);
  const AdapterConfig& peft = source_.config;
  if (source_.parts.empty()) fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no LoRA tensors", file);
  check_targets(source_, addresses, model_);

  std::map<std::string, FoundModule> found = find_modules(source_);
  for (auto& [path, module] : found) {
    const std::string at = file + ": " + path;
    if (path == kEmbedding) {
      embedding_ = take_matrix(module, AdapterRole::kEmbeddingA, AdapterRole::kEmbeddingB, peft, model_, at);
    } else if (path == kLmHead) {
      lm_head_ = take_matrix(module, AdapterRole::kLoraA, AdapterRole::kLoraB, peft, model_, at);
    } else if (const auto address = addresses.find(path)) {
      const LinearModule& linear = modules[static_cast<size_t>(address->module)];
      if (auto pair = take_pair(module, *address, linear, peft, at)) pairs_.push_back(std::move(*pair));
      if (auto bias = module.take(AdapterRole::kBias)) {
        check_shape(*bias, linear.n_count, 0, at + ".bias");
        biases_.push_back({address->layer, address->module, std::move(*bias)});
      }
    }
    if (!module.parts.empty()) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} matches no module of the base model that it could be for",
           file, module.parts.begin()->second->key);
    }
  }
  if (pairs_.empty() && biases_.empty() && embedding_.empty() && lm_head_.empty())
    fail(ErrorCode::kDataCorrupt, "{}: the adapter holds no LoRA tensors", file);
  resolve_vocabulary(file);
  max_rank_ = std::max(embedding_.rank, lm_head_.rank);
  for (const AdapterPair& pair : pairs_) max_rank_ = std::max(max_rank_, pair.rank);
  const auto order = [](const AdapterPair& pair) { return std::pair(pair.layer, pair.module); };
  std::sort(pairs_.begin(), pairs_.end(), [&](const auto& x, const auto& y) { return order(x) < order(y); });
}
/// Token ids index the embedding, and lm_head yields them: both must have the same.
void AdapterFile::resolve_vocabulary(const std::string& file) {
  const int64_t embedded = embedding_.full ? embedding_.full->shape.front() : model_.vocab_size;
  const bool follows = source_.config.ensure_weight_tying || embedded != model_.vocab_size;
  if (model_.tie_word_embeddings && follows && lm_head_.empty()) lm_head_ = head_tied_to(embedding_);
  if (vocab_size() != embedded) {
    fail(ErrorCode::kDataCorrupt, "{}: embed_tokens has {} tokens and lm_head {}; they must agree", file,
         embedded, vocab_size());
  }
}

int AdapterFile::vocab_size() const {
  return lm_head_.full ? static_cast<int>(lm_head_.full->shape.front()) : model_.vocab_size;
}

bool AdapterFile::stackable() const {
  const auto is_plain = [](const AdapterPair& pair) { return !pair.magnitude && !pair.bias; };
  return biases_.empty() && !embedding_.full && !lm_head_.full && std::ranges::all_of(pairs_, is_plain);
}

bool AdapterFile::pairs_only() const {
  return stackable() && embedding_.empty() && lm_head_.empty();
}

size_t AdapterFile::packed_bytes(DType dtype) const {
  const auto modules = linear_modules(model_);
  const auto element = static_cast<size_t>(dtype_block_bytes(dtype));
  size_t total = 0;
  for (const AdapterPair& pair : pairs_) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const int64_t padded_rank = (pair.rank + 15) / 16 * 16, padded_n = (module.n_count + 15) / 16 * 16;
    total += static_cast<size_t>(padded_rank * module.k + padded_n * pair.rank) * element;
    if (pair.magnitude || pair.bias) total += static_cast<size_t>(2 * module.n_count) * sizeof(float);
  }
  for (const AdapterMatrix* matrix : {&embedding_, &lm_head_}) {
    const auto vocabulary = static_cast<size_t>(vocab_size()),
               width = static_cast<size_t>(model_.hidden_size);
    if (matrix->full) total += vocabulary * width * sizeof(uint16_t);
    total += (vocabulary + width) * static_cast<size_t>(matrix->rank) * element;
  }
  return total;
}

}  // namespace polylora
