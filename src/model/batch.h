// One step's work for the layers: rows of tokens, which sequences they belong to, which adapters they use.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/adapter.h"
#include "ops/backend.h"

namespace polylora {

/// Rows [row_begin, row_end) belong to requests of one adapter (null = the base model).
struct AdapterGroup {
  int row_begin = 0;
  int row_end = 0;
  const Adapter* adapter = nullptr;

  std::span<const Adapter::Term> terms() const {
    return adapter == nullptr ? std::span<const Adapter::Term>() : adapter->terms();
  }
  Mat rows_of(Mat y) const { return y.row_range(row_begin, row_end - row_begin); }
};

/// T rows, contiguous by sequence, sequences contiguous by adapter.
struct Batch {
  std::vector<int32_t> token_ids;       // [T]
  std::vector<int32_t> positions;       // [T]
  std::vector<SequenceSpan> sequences;  // cover [0, T)
  std::vector<AdapterGroup> groups;     // cover [0, T)

  /// What adapters see instead of x[T,K], the input of a linear: training's dropout. Empty: x.
  std::function<ConstMat(ConstMat x, int layer, Site site)> adapter_input;

  int rows() const { return static_cast<int>(token_ids.size()); }
};

}  // namespace polylora
