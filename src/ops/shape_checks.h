// The checks that backend.cc and training_backend.cc share.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"
#include "ops/backend.h"

namespace polylora {

template <typename T>
bool has_shape(const View<T>& view, int64_t rows, int64_t cols) {
  return view.rows == rows && view.cols == cols && view.stride >= cols &&
         (view.data != nullptr || rows * cols == 0);
}

inline void check_rope(ConstMat q, ConstMat k, int head_dim, std::span<const int32_t> positions,
                       RopeTable table) {
  const auto rows = static_cast<int64_t>(positions.size());
  check(head_dim > 0 && head_dim % 2 == 0 && table.cols == head_dim, "rope: table is [P,E]");
  check(has_shape(q, rows, q.cols) && q.cols % head_dim == 0, "rope: q is [T,H*E]");
  check(has_shape(k, rows, k.cols) && k.cols % head_dim == 0, "rope: k is [T,G*E]");
  for (const int32_t position : positions)
    check(position >= 0 && position < table.rows, "rope: position in table");
}

}  // namespace polylora
