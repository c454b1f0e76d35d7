// A LoRA adapter as the forward pass uses it.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "model/weights.h"
#include "ops/weight.h"

namespace polylora {

/// Token embedding of an adapter: a matrix instead of the base's, or a LoRA pair on it. Either or neither.
struct AdapterEmbedding {
  std::unique_ptr<Weight> full;  // [V', D]; V' is the adapter's vocabulary
  std::unique_ptr<Weight> a;     // [V, r], lora_embedding_A transposed: the row of a token is its h
  std::unique_ptr<Weight> b;     // [D, r], lora_embedding_B times scale
};

/// Output embedding of an adapter, likewise.
struct AdapterHead {
  std::unique_ptr<Weight> full;      // [V', D]
  std::unique_ptr<LoraWeight> lora;  // on [V, D]
};

/// What one adapter, or several stacked on each other, adds to a base model. Immutable after loading; shared
/// between threads by whoever holds a lease on it.
class Adapter {
 public:
  /// One of the adapters that the sum W·x + Σ factor · B·(A·x) is over.
  struct Term {
    const Adapter* adapter = nullptr;
    float factor = 1.0f;
  };

  /// Of a base of this shape; it does nothing yet.
  explicit Adapter(const ModelConfig& config);
  /// A stack: the members' pairs, each times its factor. Members are plain adapters of LoRA pairs alone
  /// (`stackable`), and are kept alive.
  explicit Adapter(const std::vector<std::pair<std::shared_ptr<const Adapter>, float>>& members);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  /// The adapter itself, or the members of a stack.
  std::span<const Term> terms() const { return terms_; }
  /// Whether all that it does is a sum of pairs, so that factors mean something.
  bool stackable() const;

  // --- of a plain adapter; those of a stack are its terms'
  /// Null where the adapter does not touch that linear.
  const LoraWeight* weight(int layer, Site site) const { return at(layers_, layer, site).get(); }
  void set(int layer, Site site, std::unique_ptr<LoraWeight> weight) {
    at(layers_, layer, site) = std::move(weight);
  }

  /// What each output column becomes after the pairs were added: y * gain + shift. Gain is DoRA's magnitude
  /// over norm, 1 for modules without DoRA; shift holds biases. Empty gain: columns stay; empty shift: 0.
  std::span<const float> gain(int layer, Site site) const { return column_values(gains_, layer, site); }
  std::span<const float> shift(int layer, Site site) const { return column_values(shifts_, layer, site); }
  void set_columns(int layer, Site site, std::vector<float> gain, std::vector<float> shift = {});

  const AdapterEmbedding& embedding() const { return embedding_; }
  void set_embedding(AdapterEmbedding embedding) { embedding_ = std::move(embedding); }
  const AdapterHead& lm_head() const { return lm_head_; }
  void set_lm_head(AdapterHead head) { lm_head_ = std::move(head); }

  size_t bytes() const;

 private:
  template <typename T>
  using BySite = std::vector<std::vector<T>>;  // [layer][site]

  template <typename T>
  static T& at(BySite<T>& sites, int layer, Site site) {
    return sites[static_cast<size_t>(layer)][static_cast<size_t>(site)];
  }
  template <typename T>
  static const T& at(const BySite<T>& sites, int layer, Site site) {
    return sites[static_cast<size_t>(layer)][static_cast<size_t>(site)];
  }
  static std::span<const float> column_values(const BySite<std::vector<float>>& values, int layer,
                                              Site site) {
    return values.empty() ? std::span<const float>() : at(values, layer, site);
  }

  BySite<std::unique_ptr<LoraWeight>> layers_;
  BySite<std::vector<float>> gains_, shifts_;  // empty without
  AdapterEmbedding embedding_;
  AdapterHead lm_head_;
  std::vector<std::shared_ptr<const Adapter>> members_;
  std::vector<Term> terms_;
};

}  // namespace polylora
