// Which rows of a batch go to which expert of a mixture.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"

namespace polylora {

/// T rows, each with k of the experts: T*k entries, sorted by expert, then by row.
struct Routing {
  std::vector<int32_t> rows;    // [T*k] of the batch
  std::vector<float> weights;   // [T*k] what the expert's output is multiplied with
  std::vector<int32_t> begins;  // [experts + 1] entries [begins[e], begins[e + 1]) are expert e's

  int experts() const { return static_cast<int>(begins.size()) - 1; }

  /// One expert's entries.
  struct Share {
    int begin = 0;  // the first entry's index
    std::span<const int32_t> rows;
    std::span<const float> weights;

    int64_t size() const { return static_cast<int64_t>(rows.size()); }
  };
  Share of(int expert) const;
};

/// How a router's logits become weights.
struct RouterParams {
  int per_token = 0;       // k, at most the number of experts
  bool normalises = true;  // the k weights are divided by their sum
};

/// One row: the k likeliest experts by softmax over all (of equals the first), in ascending order, and their
/// weights.
void pick_experts(std::span<const float> logits, const RouterParams& params, int32_t* experts,
                  float* weights);

/// picked and weights [T,k], as pick_experts leaves them for every row, sorted by expert.
Routing group_by_expert(std::span<const int32_t> picked, std::span<const float> weights, int per_token,
                        int experts);

/// What pick_experts says of every row. for_rows(rows, fn) calls fn(row) for each, on any threads.
template <typename ForRows>
Routing route_rows(ConstMat logits, const RouterParams& params, ForRows for_rows) {
  const auto k = static_cast<size_t>(params.per_token), rows = static_cast<size_t>(logits.rows);
  std::vector<int32_t> picked(rows * k);
  std::vector<float> weights(rows * k);
  for_rows(logits.rows, [&](int64_t row) {
    const size_t first = static_cast<size_t>(row) * k;
    pick_experts({logits.row(row), static_cast<size_t>(logits.cols)}, params, &picked[first],
                 &weights[first]);
  });
  return group_by_expert(picked, weights, params.per_token, static_cast<int>(logits.cols));
}

/// d_logits[T,E] = the gradient of the logits. `gains` [T*k], by entry: d loss / d weight, times the weight.
void route_backward(Mat d_logits, ConstMat logits, const Routing& routing, const RouterParams& params,
                    std::span<const float> gains);

}  // namespace polylora
