// The distribution a token is drawn from: softmax after temperature, min_p, top_k and top_p.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace polylora {

/// Below it a request is greedy.
inline constexpr float kGreedyTemperature = 1e-5f;

/// A reusable workspace: after the first rows nothing is allocated. No row is ever sorted: top_k narrows by
/// block maxima and a selection, top_p by what blocks weigh and a histogram of masses.
class Distribution {
 public:
  explicit Distribution(int vocab_size);

  /// Builds from processed logits, which must stay unchanged while the result is used.
  void build(std::span<const float> logits, const SamplingParams& params);

  /// The token at u in [0, 1) of the cumulative distribution in order of id.
  int32_t draw(double u) const;

  /// Probability of every token, in double precision; 0 for those cut off.
  std::vector<double> probabilities() const;

 private:
  void keep_only(int32_t id);
  void keep_from(float threshold);
  void narrow_from(float threshold);
  void keep_top_k(size_t k);
  void keep_min_p(float min_p);
  void keep_top_p(float top_p);
  void drop_light(float top_p);
  float lightest_candidate(float top_p);
  double mass_below(float floor) const;
  void weigh();

  /// Kept: everything heavier than `weight`, and what weighs the same but for the first ones.
  struct Cut {
    float weight = 0;
    int64_t ties_to_drop = 0;
  };
  Cut find_cut(double mass);
  void cut_off(const Cut& cut);
  static Cut find_cut_among(std::span<float> range, double above, double mass);

  std::span<const float> logits_;
  float max_ = 0;
  float scale_ = 1;
  bool all_ = false;            // nothing was cut off: ids_ and values_ are not used
  size_t kept_ = 0;             // how many tokens these three begin with; there is room for all
  std::vector<int32_t> ids_;    // ascending
  std::vector<float> values_;   // their logits
  std::vector<float> weights_;  // exp((logit - max) * scale)
  std::vector<double> sums_;    // of blocks of weights_
  double total_ = 0;
  std::vector<float> maxima_;          // of blocks of logits_
  std::vector<float> heaviest_;        // the same as weights
  std::vector<double> heaviest_sums_;  // a by-product
  std::vector<float> scratch_;
  std::vector<double> histogram_;  // mass by leading bits of the weight
};

}  // namespace polylora
