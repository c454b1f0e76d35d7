#include "tune/train/base_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace polylora {
namespace {

void merge_pair(TrainingBackend& backend, const AdapterFile& adapter, const AdapterPair& pair, Mat w) {
  std::vector<float> a = read_adapter_tensor(adapter, pair.a), b = read_adapter_tensor(adapter, pair.b);
  backend.lora_merge(w, ConstMat(a.data(), pair.rank, w.cols), ConstMat(b.data(), w.rows, pair.rank),
                     pair.scale);
}

}  // namespace

void read_rows(Backend& backend, const Weight& w, int64_t begin, Mat out) {
  std::vector<int32_t> ids(static_cast<size_t>(out.rows));
  std::iota(ids.begin(), ids.end(), static_cast<int32_t>(begin));
  backend.embed(out, w, ids);
}

std::vector<float> read_adapter_tensor(const AdapterFile& adapter, const StoredTensor& tensor) {
  std::vector<std::byte> room;
  const TensorView view = tensor.read(DType::kF32, room);
  std::vector<float> values(view.data.size() / sizeof(float));
  std::memcpy(values.data(), view.data.data(), view.data.size());
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    fail(ErrorCode::kDataCorrupt, "{}: the adapter holds NaN or infinity", adapter.path().string());
  return values;
}

void edit_base_matrix(Model& model, Backend& backend, int layer, Site site,
                      const std::function<void(int module, Mat rows)>& fn) {
  std::unique_ptr<Weight>& weight = model.layers[static_cast<size_t>(layer)].at(site).weight;
  std::vector<float> values(static_cast<size_t>(weight->rows() * weight->cols()));
  const Mat all(values.data(), weight->rows(), weight->cols());
  read_rows(backend, *weight, 0, all);
  const auto modules = linear_modules(model.config);
  for (int m = 0; m < static_cast<int>(modules.size()); ++m) {
    const LinearModule& module = modules[static_cast<size_t>(m)];
    if (module.site == site) fn(m, all.row_range(module.n_begin, module.n_count));
  }
  weight = backend.pack_weight(rows_of(all), weight->format());
}

void merge_into_base(Model& model, TrainingBackend& backend, const AdapterFile& adapter) {
  const WeightFormat format = model.layers.front().at(Site::kQkv).weight->format();
  if (format == WeightFormat::kQ8 || format == WeightFormat::kQ4) {
    fail(ErrorCode::kUnsupported,
         "{}: an adapter cannot be merged into a quantised base; leave out quantization_bit, or train on a "
         "merged model (polylora export)",
         adapter.path().string());
  }
  const auto modules = linear_modules(model.config);
  for (int layer = 0; layer < model.config.num_layers; ++layer) {
    for (const Site site : sites(model.config)) {
      const auto is_here = [&](const AdapterPair& pair) {
        return pair.layer == layer && modules[static_cast<size_t>(pair.module)].site == site;
      };
      if (std::none_of(adapter.pairs().begin(), adapter.pairs().end(), is_here)) continue;
      edit_base_matrix(model, backend, layer, site, [&](int module, Mat rows) {
        for (const AdapterPair& pair : adapter.pairs()) {
          if (is_here(pair) && pair.module == module) merge_pair(backend, adapter, pair, rows);
        }
      });
    }
  }
}

}  // namespace polylora
