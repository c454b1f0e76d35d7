// Reading and replacing matrices of a base model: for what changes them before training (merged adapters,
// PiSSA) or needs their numbers (DoRA's norms, matrices trained in full).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "io/adapter_file.h"
#include "model/weights.h"
#include "ops/training_backend.h"

namespace polylora {

/// Rows [begin, begin + out.rows) of w as floats.
void read_rows(Backend& backend, const Weight& w, int64_t begin, Mat out);

/// A or B of an adapter's pair as floats [rows * cols]. Throws kDataCorrupt, naming the adapter, for NaN or
/// infinity: one would spread to every weight that it meets.
std::vector<float> read_adapter_tensor(const AdapterFile& adapter, const StoredTensor& tensor);

/// Calls fn(module, rows) for each linear module of the fused matrix at (layer, site): rows is w[N,K] of that
/// module in f32, which fn may change; the matrix is then packed again in `format`. One layer at a time;
/// memory is one fused matrix.
void edit_base_matrix(Model& model, Backend& backend, int layer, Site site,
                      const std::function<void(int module, Mat rows)>& fn);

/// W += scale·B·A for every pair of the adapter, rounded once to the format that W has. The base must not be
/// quantised (kUnsupported).
void merge_into_base(Model& model, TrainingBackend& backend, const AdapterFile& adapter);

}  // namespace polylora
