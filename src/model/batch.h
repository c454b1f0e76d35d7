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

/// The groups of `rows`, which ascend, in terms of their places in that list.
std::vector<AdapterGroup> groups_among(std::span<const AdapterGroup> groups, std::span<const int32_t> rows);

/// What a linear is applied to: all rows of a batch, or some of them.
struct BatchRows {
  std::span<const AdapterGroup> groups;  // in terms of places in `rows`
  std::span<const int32_t> rows = {};    // ascending; empty: all
};

/// T rows, contiguous by sequence, sequences contiguous by adapter.
struct Batch {
  std::vector<int32_t> token_ids;       // [T]
  std::vector<int32_t> positions;       // [T]
  std::vector<SequenceSpan> sequences;  // cover [0, T)
  std::vector<AdapterGroup> groups;     // cover [0, T)

  /// What adapters see instead of x, the input of a linear for `rows` (empty: all T): training's dropout.
  /// Empty: x.
  std::function<ConstMat(ConstMat x, int layer, Site site, std::span<const int32_t> rows)> adapter_input;

  int rows() const { return static_cast<int>(token_ids.size()); }
};

/// Calls fn(expert, share, rows) for every expert that has rows of the batch, in ascending order.
template <typename Fn>
void for_each_expert(const Batch& batch, const Routing& routing, Fn fn) {
  for (int expert = 0; expert < routing.experts(); ++expert) {
    const Routing::Share share = routing.of(expert);
    if (share.rows.empty()) continue;
    const std::vector<AdapterGroup> groups = groups_among(batch.groups, share.rows);
    fn(expert, share, BatchRows{groups, share.rows});
  }
}

}  // namespace polylora
