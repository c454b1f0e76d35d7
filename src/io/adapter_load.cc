// AdapterFile::load: from an adapter's files to what the forward pass uses.
#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "io/adapter_file.h"
#include "model/dora.h"

namespace polylora {
namespace {

/// Halves the wait for an adapter on an idle server, takes little from a busy one.
constexpr int kLoadThreads = 2;

/// Values of a tensor, kept as long as this lives.
class ReadTensor {
 public:
  ReadTensor(const StoredTensor& tensor, DType as, const std::string& where) : view_(tensor.read(as, room_)) {
    check_finite(view_, where);
  }
  ReadTensor(const ReadTensor&) = delete;
  ReadTensor& operator=(const ReadTensor&) = delete;

  DType dtype() const { return view_.dtype; }
  const std::byte* data() const { return view_.data.data(); }
  const float* floats() const { return reinterpret_cast<const float*>(data()); }  // of F32
  int64_t rows() const { return view_.shape.front(); }
  int64_t cols() const { return view_.shape.back(); }

  WeightSource as_weight() const {
    WeightSource source{.cols = cols(), .rows = {}};
    const size_t row_bytes = dtype_row_bytes(dtype(), cols());
    for (int64_t r = 0; r < rows(); ++r)
      source.rows.push_back({data() + static_cast<size_t>(r) * row_bytes, dtype()});
    return source;
  }

 private:
  std::vector<std::byte> room_;
  TensorView view_;
};

bool equal_rows(const Weight& a, const Weight& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  std::vector<float> row_a(static_cast<size_t>(a.cols())), row_b = row_a;
  for (int64_t row = 0; row < a.rows(); ++row) {
    a.read_row(row, row_a.data());
    b.read_row(row, row_b.data());
    if (row_a != row_b) return false;
  }
  return true;
}

/// The matrix in the format of the base's, or null when it is the base's: PEFT saves embeddings beside a
/// pair, trained or not.
std::unique_ptr<Weight> pack_full(Backend& backend, const StoredTensor& tensor, const Weight& base,
                                  const std::string& where) {
  const ReadTensor full(tensor, tensor.dtype(), where);
  std::unique_ptr<Weight> packed = backend.pack_weight(full.as_weight(), base.format());
  if (equal_rows(*packed, base)) return nullptr;
  return packed;
}

std::vector<float> scaled(const ReadTensor& tensor, float factor) {
  std::vector<float> values(tensor.floats(), tensor.floats() + tensor.rows() * tensor.cols());
  for (float& value : values) value *= factor;
  return values;
}

}  // namespace

/// One load: packs site by site.
class AdapterLoader {
 public:
  AdapterLoader(const AdapterFile& file, const Model& model, Backend& backend, DType dtype)
      : file_(file),
        model_(model),
        backend_(backend),
        dtype_(dtype),
        modules_(linear_modules(model.config)) {}

  std::unique_ptr<Adapter> load() {
    auto adapter = std::make_unique<Adapter>(model_.config);
    const std::vector<SiteParts> sites = parts_by_site();
    std::vector<Columns> columns(sites.size());
    std::atomic<size_t> next{0};
    run_on_threads(kLoadThreads, [&](int) {
      for (size_t i; (i = next.fetch_add(1)) < sites.size();) load_site(sites[i], *adapter, columns[i]);
    });
    for (size_t i = 0; i < sites.size(); ++i) {
      if (columns[i].gain.empty()) continue;
      adapter->set_columns(sites[i].layer, sites[i].site, std::move(columns[i].gain),
                           std::move(columns[i].shift));
    }
    if (!file_.embedding_.empty()) adapter->set_embedding(load_embedding());
    if (!file_.lm_head_.empty()) adapter->set_lm_head(load_lm_head());
    return adapter;
  }

 private:
  struct SiteParts {  // those of one fused linear
    int layer;
    Site site;
    std::vector<const AdapterPair*> pairs;
    std::vector<const AdapterBias*> biases;
  };
  struct Columns {
    std::vector<float> gain, shift;
  };

  const LinearModule& module(int index) const { return modules_[static_cast<size_t>(index)]; }

  std::string where(int layer, int index) const {
    return file_.path().string() + ": " + module_path(layer, module(index));
  }

  std::vector<SiteParts> parts_by_site() const {
    std::vector<SiteParts> sites;
    const auto site_of = [&](int layer, int index) -> SiteParts& {
      const Site site = module(index).site;
      const auto same = [&](const SiteParts& parts) { return parts.layer == layer && parts.site == site; };
      const auto found = std::find_if(sites.rbegin(), sites.rend(), same);
      return found != sites.rend() ? *found : sites.emplace_back(SiteParts{layer, site, {}, {}});
    };
    for (const AdapterPair& pair : file_.pairs_) site_of(pair.layer, pair.module).pairs.push_back(&pair);
    for (const AdapterBias& bias : file_.biases_) site_of(bias.layer, bias.module).biases.push_back(&bias);
    return sites;
  }

  void load_site(const SiteParts& parts, Adapter& adapter, Columns& columns) const {
    LoraSource source{.k = 0, .n = site_rows(model_.config, parts.site), .pairs = {}};
    std::deque<ReadTensor> tensors;
    for (const AdapterPair* pair : parts.pairs) {
      const LinearModule& linear = module(pair->module);
      const std::string at = where(pair->layer, pair->module);
      const ReadTensor& a = tensors.emplace_back(pair->a, pair->dtype(), at + ".lora_A");
      const ReadTensor& b = tensors.emplace_back(pair->b, pair->dtype(), at + ".lora_B");
      source.k = linear.k;
      source.pairs.push_back(
          {linear.n_begin, linear.n_count, pair->rank, pair->scale, a.data(), b.data(), pair->dtype()});
    }
    if (!parts.pairs.empty()) adapter.set(parts.layer, parts.site, backend_.pack_lora(source, dtype_));
    set_columns(parts, source, columns);
  }

  /// y = gain ∘ (W·x + s·B·(A·x) + s·bias of B) + bias, where y comes with the base's bias inside the gain.
  void set_columns(const SiteParts& parts, const LoraSource& source, Columns& columns) const {
    const auto changes = [](const AdapterPair* pair) { return pair->magnitude || pair->bias; };
    if (parts.biases.empty() && std::ranges::none_of(parts.pairs, changes)) return;
    const Linear& base = model_.layers[static_cast<size_t>(parts.layer)].at(parts.site);
    const auto n = static_cast<size_t>(base.weight->rows());
    columns.gain.assign(n, 1.0f);
    for (size_t i = 0; i < parts.pairs.size(); ++i) {
      if (parts.pairs[i]->magnitude) set_gain(*parts.pairs[i], *base.weight, source.pairs[i], columns.gain);
    }
    columns.shift = bias_beside_gain(base.bias, columns.gain);
    columns.shift.resize(n);
    for (const AdapterPair* pair : parts.pairs) {
      if (!pair->bias) continue;
      const ReadTensor bias(*pair->bias, DType::kF32, where(pair->layer, pair->module) + ".lora_B.bias");
      for_columns(pair->module, [&](size_t to, size_t from) {
        columns.shift[to] += columns.gain[to] * pair->scale * bias.floats()[from];
      });
    }
    for (const AdapterBias* bias : parts.biases) {
      const ReadTensor values(bias->values, DType::kF32, where(bias->layer, bias->module) + ".bias");
      for_columns(bias->module, [&](size_t to, size_t from) {
        columns.shift[to] += values.floats()[from] - (base.bias.empty() ? 0.0f : base.bias[to]);
      });
    }
  }

  void set_gain(const AdapterPair& pair, const Weight& base, const LoraPairSource& source,
                std::vector<float>& gain) const {
    const std::string at = where(pair.layer, pair.module) + ".lora_magnitude_vector";
    const ReadTensor magnitude(*pair.magnitude, DType::kF32, at);
    const std::vector<float> norms = adapted_row_norms(base, source);
    for_columns(pair.module, [&](size_t to, size_t from) {
      gain[to] = magnitude.floats()[from] / std::max(norms[from], kLeastNorm);
    });
  }

  /// Calls fn(column of the fused linear, column of the module).
  template <typename Fn>
  void for_columns(int index, Fn fn) const {
    const LinearModule& linear = module(index);
    for (int64_t i = 0; i < linear.n_count; ++i)
      fn(static_cast<size_t>(linear.n_begin + i), static_cast<size_t>(i));
  }

  AdapterEmbedding load_embedding() const {
    const AdapterMatrix& matrix = file_.embedding_;
    const std::string at = file_.path().string() + ": embed_tokens";
    AdapterEmbedding embedding;
    if (matrix.full) embedding.full = pack_full(backend_, *matrix.full, *model_.embedding, at);
    if (!matrix.a) return embedding;
    const ReadTensor a(*matrix.a, DType::kF32, at + ".lora_embedding_A");
    const ReadTensor b(*matrix.b, DType::kF32, at + ".lora_embedding_B");
    const WeightFormat format = dtype_ == DType::kF32 ? WeightFormat::kF32 : WeightFormat::kBf16;
    std::vector<float> by_token(static_cast<size_t>(a.rows() * a.cols()));  // [V, r]
    for (int64_t r = 0; r < a.rows(); ++r) {
      for (int64_t v = 0; v < a.cols(); ++v)
        by_token[static_cast<size_t>(v * a.rows() + r)] = a.floats()[r * a.cols() + v];
    }
    const std::vector<float> scaled_b = scaled(b, matrix.scale);
    embedding.a = backend_.pack_weight(rows_of(ConstMat(by_token.data(), a.cols(), a.rows())), format);
    embedding.b = backend_.pack_weight(rows_of(ConstMat(scaled_b.data(), b.rows(), b.cols())), format);
    return embedding;
  }

  AdapterHead load_lm_head() const {
    const AdapterMatrix& matrix = file_.lm_head_;
    const std::string at = file_.path().string() + ": lm_head";
    AdapterHead head;
    if (matrix.full) head.full = pack_full(backend_, *matrix.full, model_.output_embedding(), at);
    if (!matrix.a) return head;
    const DType dtype = matrix.a->dtype() == matrix.b->dtype() ? matrix.a->dtype() : DType::kF32;
    const ReadTensor a(*matrix.a, dtype, at + ".lora_A"), b(*matrix.b, dtype, at + ".lora_B");
    LoraSource source{.k = model_.config.hidden_size, .n = b.rows(), .pairs = {}};
    source.pairs.push_back({0, b.rows(), matrix.rank, matrix.scale, a.data(), b.data(), dtype});
    head.lora = backend_.pack_lora(source, dtype_);
    return head;
  }

  static constexpr float kLeastNorm = 1e-15f;

  const AdapterFile& file_;
  const Model& model_;
  Backend& backend_;
  const DType dtype_;
  const std::vector<LinearModule> modules_;
};

std::unique_ptr<Adapter> AdapterFile::load(const Model& model, Backend& backend, DType dtype) const {
  return AdapterLoader(*this, model, backend, dtype).load();
}

}  // namespace polylora
