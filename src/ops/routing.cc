#include "ops/routing.h"

#include <algorithm>
#include <cmath>

namespace polylora {
namespace {

/// Σ exp(logit - top) over all experts.
float sum_of_exponentials(std::span<const float> logits, float top) {
  float sum = 0.0f;
  for (const float logit : logits) sum += std::exp(logit - top);
  return sum;
}

float highest(std::span<const float> logits) {
  return *std::max_element(logits.begin(), logits.end());
}

/// Calls fn(entry, row, expert).
template <typename Fn>
void for_each_entry(const Routing& routing, Fn fn) {
  for (int e = 0; e < routing.experts(); ++e) {
    const Routing::Share share = routing.of(e);
    for (size_t i = 0; i < share.rows.size(); ++i) {
      fn(static_cast<size_t>(share.begin) + i, static_cast<size_t>(share.rows[i]), static_cast<size_t>(e));
    }
  }
}

}  // namespace

Routing::Share Routing::of(int expert) const {
  const auto e = static_cast<size_t>(expert);
  const auto begin = static_cast<size_t>(begins[e]), count = static_cast<size_t>(begins[e + 1]) - begin;
  return {begins[e], std::span(rows).subspan(begin, count), std::span(weights).subspan(begin, count)};
}

void pick_experts(std::span<const float> logits, const RouterParams& params, int32_t* experts,
                  float* weights) {
  const auto logit = [&](int32_t expert) { return logits[static_cast<size_t>(expert)]; };
  int32_t* end = experts;  // of those picked so far, by falling logit
  for (int32_t e = 0; e < static_cast<int32_t>(logits.size()); ++e) {
    int32_t* at = end;
    while (at != experts && logit(e) > logit(at[-1])) --at;
    if (at == experts + params.per_token) continue;
    if (end != experts + params.per_token) ++end;
    std::move_backward(at, end - 1, end);
    *at = e;
  }
  std::sort(experts, end);

  const float top = highest(logits);
  float sum = 0.0f;
  for (int i = 0; i < params.per_token; ++i) {
    weights[i] = std::exp(logit(experts[i]) - top);
    sum += weights[i];
  }
  if (!params.normalises) sum = sum_of_exponentials(logits, top);
  for (int i = 0; i < params.per_token; ++i) weights[i] /= sum;
}

Routing group_by_expert(std::span<const int32_t> picked, std::span<const float> weights, int per_token,
                        int experts) {
  Routing routing{.rows = std::vector<int32_t>(picked.size()),
                  .weights = std::vector<float>(picked.size()),
                  .begins = std::vector<int32_t>(static_cast<size_t>(experts) + 1)};
  for (const int32_t expert : picked) ++routing.begins[static_cast<size_t>(expert) + 1];
  for (size_t e = 1; e < routing.begins.size(); ++e) routing.begins[e] += routing.begins[e - 1];
  std::vector<int32_t> next(routing.begins.begin(), routing.begins.end() - 1);
  for (size_t i = 0; i < picked.size(); ++i) {
    const auto entry = static_cast<size_t>(next[static_cast<size_t>(picked[i])]++);
    routing.rows[entry] = static_cast<int32_t>(i / static_cast<size_t>(per_token));
    routing.weights[entry] = weights[i];
  }
  return routing;
}

// Weight i is p_i / Σ p, over the picked or over all: with g_i = w_i · d w_i, d logit_j = g_j - s_j · Σ g,
// where s is the softmax over those that the sum is over.
void route_backward(Mat d_logits, ConstMat logits, const Routing& routing, const RouterParams& params,
                    std::span<const float> gains) {
  const auto experts = static_cast<size_t>(logits.cols);
  std::vector<float> tops, sums, totals(static_cast<size_t>(logits.rows));
  for (int64_t t = 0; t < logits.rows; ++t) {
    const std::span row(logits.row(t), experts);
    tops.push_back(highest(row));
    sums.push_back(params.normalises ? 0.0f : sum_of_exponentials(row, tops.back()));
  }
  for_each_entry(routing, [&](size_t entry, size_t t, size_t expert) {
    totals[t] += gains[entry];
    const float logit = logits.row(static_cast<int64_t>(t))[expert];
    if (params.normalises) sums[t] += std::exp(logit - tops[t]);
  });
  const auto shared = [&](size_t t, size_t expert) {
    const float logit = logits.row(static_cast<int64_t>(t))[expert];
    return std::exp(logit - tops[t]) / sums[t] * totals[t];
  };
  for (int64_t t = 0; t < logits.rows; ++t) {
    for (size_t e = 0; e < experts; ++e)
      d_logits.row(t)[e] = params.normalises ? 0.0f : -shared(static_cast<size_t>(t), e);
  }
  for_each_entry(routing, [&](size_t entry, size_t t, size_t expert) {
    d_logits.row(static_cast<int64_t>(t))[expert] = gains[entry] - shared(t, expert);
  });
}

}  // namespace polylora
