#include "tune/train/training_pass.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace polylora {
namespace {

/// Logits are made for this many targets at a time: enough rows for fast products, little memory.
int head_rows(const ModelConfig& config) {
  constexpr int64_t kLogitBytes = int64_t{24} << 20;
  const int64_t fit = kLogitBytes / (int64_t{config.vocab_size} * 4);
  return static_cast<int>(std::clamp<int64_t>(fit, 32, 256));
}

int64_t widest_output(const ModelConfig& config) {
  return std::max<int64_t>(
      {2 * int64_t{config.intermediate_size}, config.qkv_size(), config.hidden_size, config.experts.count});
}

int64_t widest_input(const ModelConfig& config) {
  return std::max<int64_t>({config.intermediate_size, config.q_size(), config.hidden_size});
}

void copy_rows(Mat to, ConstMat from) {
  for (int64_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r), from.cols, to.row(r));
}

/// Random streams: one for every site's dropout, then one for the embedding's noise.
uint64_t dropout_stream(int layer, Site site) {
  constexpr uint64_t kSites = uint64_t{1} << 16;  // as many as the type can name
  return static_cast<uint64_t>(layer) * kSites + static_cast<uint64_t>(site);
}
constexpr uint64_t kNoiseStream = ~uint64_t{0};

}  // namespace

TrainingPass::TrainingPass(const Model& model, TrainingBackend& backend, const TrainableAdapter* trained,
                           const TrainingPassOptions& options)
    : model_(model),
      backend_(backend),
      trained_(trained),
      options_(options),
      layers_(model, backend, options.max_positions) {
  const ModelConfig& config = model.config;
  // Every sequence has a row and no more pages than rows.
  cache_ = backend.make_kv_cache(
      {1, /*pages=*/options.max_rows, config.num_kv_heads, config.head_dim, options.dtype});
  const MemoryNeed need = memory_need(config, options);
  const auto fitting = static_cast<int>(options.activation_bytes / std::max<size_t>(1, need.per_kept_layer));
  first_kept_ = config.num_layers - std::min(config.num_layers, fitting);
  residuals_.resize(static_cast<size_t>(config.num_layers));
  kept_.resize(static_cast<size_t>(config.num_layers - first_kept_));
  allocate();
}

void TrainingPass::allocate() {
  const ModelConfig& config = model_.config;
  const int64_t t = options_.max_rows, d = config.hidden_size, f = config.intermediate_size;
  const auto add_kept = [&](Kept& kept) {
    arena_.add(kept.qkv, t, config.qkv_size());
    if (config.qk_norm) arena_.add(kept.projected, t, config.qkv_size());
    if (config.output_norms) {
      for (Mat* mat : {&kept.attention_out, &kept.mlp_out}) arena_.add(*mat, t, d);
    }
    arena_.add(kept.attended, t, config.q_size());
    arena_.add(kept.lse, t, config.num_heads);
    arena_.add(kept.middle, t, d);
    arena_.add(kept.gate_up, config.feed_forward_rows(t), 2 * f);
  };
  for (Mat& residual : residuals_) arena_.add(residual, t, d);
  for (Kept& kept : kept_) add_kept(kept);
  if (first_kept_ > 0) add_kept(scratch_);
  for (Mat* mat : {&attention_in_, &mlp_in_, &delta_, &final_}) arena_.add(*mat, t, d);
  arena_.add(activated_, config.feed_forward_rows(t), f);
  if (config.has_experts()) {
    for (Mat* mat : {&expert_in_, &expert_out_}) arena_.add(*mat, t, d);
    arena_.add(router_logits_, t, config.experts.count);
  }
  const int64_t chunk = head_rows(config);
  for (Mat* mat : {&head_rows_, &head_normed_, &d_head_}) arena_.add(*mat, chunk, d);
  arena_.add(logits_, chunk, config.vocab_size);
  if (config.final_logit_softcap > 0.0f) arena_.add(capped_, chunk, config.vocab_size);
  if (trained_ != nullptr) {
    for (Mat* mat : {&d_residual_, &d_in_}) arena_.add(*mat, t, d);
    arena_.add(d_attended_, t, config.q_size());
    arena_.add(d_qkv_, t, config.qkv_size());
    arena_.add(d_activated_, t, f);
    if (config.qk_norm) arena_.add(d_projected_, t, config.qkv_size());
    if (config.output_norms) arena_.add(d_output_, t, d);
    if (config.has_experts()) arena_.add(d_router_, t, config.experts.count);
    if (options_.dropout > 0.0) {
      for (Mat* mat : {&dropped_, &d_dropped_}) arena_.add(*mat, t, widest_input(config));
    }
    if (trained_->settings().use_dora) {
      for (Mat* mat : {&gained_, &d_gained_}) arena_.add(*mat, t, widest_output(config));
    }
  }
  arena_.allocate();
}

TrainingPass::MemoryNeed TrainingPass::memory_need(const ModelConfig& config,
                                                   const TrainingPassOptions& options) {
  const auto t = static_cast<size_t>(options.max_rows), d = static_cast<size_t>(config.hidden_size);
  const auto f = static_cast<size_t>(config.intermediate_size), q = static_cast<size_t>(config.q_size());
  const auto qkv = static_cast<size_t>(config.qkv_size()), layers = static_cast<size_t>(config.num_layers);
  const size_t projected = config.qk_norm ? qkv : 0, outputs = config.output_norms ? d : 0;
  const auto share = static_cast<size_t>(config.feed_forward_rows(1));  // rows of feed-forwards for one of t
  const size_t experts = config.has_experts() ? 2 * d + 2 * static_cast<size_t>(config.experts.count) : 0;
  const size_t kept =
      qkv + projected + q + static_cast<size_t>(config.num_heads) + d + 2 * outputs + share * 2 * f;
  const size_t shared = layers * d + 4 * d + share * f + 2 * d + q + qkv + projected + outputs + f + experts;
  const size_t logits = (config.final_logit_softcap > 0.0f ? 2 : 1) * static_cast<size_t>(config.vocab_size);
  const size_t head = static_cast<size_t>(head_rows(config)) * (3 * d + logits);
  const auto element = static_cast<size_t>(dtype_block_bytes(options.dtype));
  return {.fixed = (t * (shared + kept) + head) * sizeof(float),
          .per_kept_layer = t * kept * sizeof(float),
          .kv = t * kKvPageSize * 2 * static_cast<size_t>(config.kv_size()) * element};
}

size_t TrainingPass::bytes() const {
  return arena_.bytes() + cache_->bytes() + layers_.bytes();
}

void TrainingPass::set_full_matrices(const Weight* embedding, const Weight* lm_head) {
  embedding_ = embedding;
  lm_head_ = lm_head;
}

LayerActivations TrainingPass::activations(int layer) const {
  const Kept& kept = is_kept(layer) ? kept_[static_cast<size_t>(layer - first_kept_)] : scratch_;
  const bool output_norms = model_.config.output_norms;
  return {.residual = rows(residuals_[static_cast<size_t>(layer)]),
          .attention_in = rows(attention_in_),
          .projected = rows(model_.config.qk_norm ? kept.projected : kept.qkv),
          .qkv = rows(kept.qkv),
          .attended = rows(kept.attended),
          .lse = rows(kept.lse),
          .attention_out = rows(output_norms ? kept.attention_out : delta_),
          .middle = rows(kept.middle),
          .mlp_in = rows(mlp_in_),
          .gate_up = kept.gate_up.row_range(0, model_.config.feed_forward_rows(rows_)),
          .activated = activated_.row_range(0, model_.config.feed_forward_rows(rows_)),
          .mlp_out = rows(output_norms ? kept.mlp_out : delta_),
          .delta = rows(delta_),
          .router_logits = rows(router_logits_),
          .expert_in = rows(expert_in_),
          .expert_out = rows(expert_out_),
          .keeps_experts = true};
}

// --- forward
// ------------------------------------------------------------------------------------------------------

void TrainingPass::forward(MicroBatch& micro, const Adapter* adapter, Mode mode) {
  rows_ = micro.rows();
  check(rows_ > 0 && rows_ <= options_.max_rows, "rows of a micro-batch");
  check(static_cast<int>(micro.pages.size()) <= cache_->shape().pages, "pages of a micro-batch");
  adapter_ = adapter;
  micro.batch.groups = {{0, rows_, adapter}};
  micro.batch.adapter_input = nullptr;
  if (mode == Mode::kForBackward && options_.dropout > 0.0) enable_dropout(micro);

  embed(micro, mode);
  const int layers = model_.config.num_layers;
  ConstMat residual = rows(residuals_.front()), delta;
  for (int layer = 0; layer < layers; ++layer) {
    const LayerActivations acts = activations(layer);
    layers_.run(layer, micro.batch, *cache_, 0, residual, delta, acts);
    residual = acts.middle;
    delta = acts.delta;
  }
  backend_.rmsnorm(rows(attention_in_), rows(final_), residual, delta, model_.final_norm,
                   model_.config.rms_norm_eps);
}

void TrainingPass::embed(const MicroBatch& micro, Mode mode) {
  const Mat out = rows(residuals_.front());
  backend_.embed(out, embedding(), micro.batch.token_ids);
  if (!model_.embedding_gain.empty()) backend_.scale_columns(out, model_.embedding_gain);
  if (mode != Mode::kForBackward || options_.neftune_noise_alpha <= 0.0) return;
  std::vector<float> scale;
  for (const int32_t length : micro.row_lengths) {
    const double elements = static_cast<double>(length) * static_cast<double>(out.cols);
    scale.push_back(static_cast<float>(options_.neftune_noise_alpha / std::sqrt(elements)));
  }
  backend_.add_noise(out, scale, {micro.row_keys, kNoiseStream});
}

void TrainingPass::enable_dropout(MicroBatch& micro) {
  micro.batch.adapter_input = [this, keys = std::span<const uint64_t>(micro.row_keys)](
                                  ConstMat x, int layer, Site site,
                                  std::span<const int32_t> selected) -> ConstMat {
    const Mat dropped = dropped_.row_range(0, x.rows).columns(0, x.cols);
    backend_.dropout(dropped, x, static_cast<float>(options_.dropout),
                     {keys_of(keys, selected), dropout_stream(layer, site)}, false);
    return dropped;
  };
}

/// Those of some rows; none selected: of all.
std::span<const uint64_t> TrainingPass::keys_of(std::span<const uint64_t> keys,
                                                std::span<const int32_t> selected) {
  if (selected.empty()) return keys;
  expert_keys_.clear();
  for (const int32_t row : selected) expert_keys_.push_back(keys[static_cast<size_t>(row)]);
  return expert_keys_;
}

/// body(first, rows, targets): logits of targets [first, first + count) are in logits_ when it is called.
template <typename Body>
void TrainingPass::for_head_chunks(const MicroBatch& micro, Body body) {
  const auto total = static_cast<int64_t>(micro.targets.size());
  for (int64_t first = 0; first < total; first += head_rows_.rows) {
    const int64_t count = std::min(head_rows_.rows, total - first);
    const auto chunk_rows =
        std::span(micro.target_rows).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    const Mat gathered = head_rows_.row_range(0, count), normed = head_normed_.row_range(0, count);
    backend_.gather_rows(gathered, rows(final_), chunk_rows);
    backend_.rmsnorm(normed, Mat(), gathered, ConstMat(), model_.final_norm, model_.config.rms_norm_eps);
    const Mat logits = logits_.row_range(0, count);
    backend_.linear(logits, normed, lm_head(), {});
    if (model_.config.final_logit_softcap > 0.0f) backend_.softcap(logits, model_.config.final_logit_softcap);
    body(static_cast<size_t>(first), static_cast<size_t>(count), logits);
  }
}

void TrainingPass::losses(const MicroBatch& micro, std::span<float> loss, std::span<uint8_t> correct) {
  const std::vector<float> no_weight(static_cast<size_t>(head_rows_.rows));
  for_head_chunks(micro, [&](size_t first, size_t count, Mat logits) {
    const auto targets = std::span(micro.targets).subspan(first, count);
    for (size_t m = 0; m < count && !correct.empty(); ++m) {
      const float* row = logits.row(static_cast<int64_t>(m));
      correct[first + m] = std::max_element(row, row + logits.cols) - row == targets[m];
    }
    backend_.cross_entropy(loss.subspan(first, count), logits, targets, std::span(no_weight).first(count));
  });
}

// --- backward
// -----------------------------------------------------------------------------------------------------

void TrainingPass::backward(const MicroBatch& micro, std::span<const float> weights, std::span<float> loss) {
  check(trained_ != nullptr, "a backward pass has parameters");
  backend_.clear(rows(d_residual_));
  head_backward(micro, weights, loss);
  const Parameter* trained_embedding = trained_->full_matrix("embed_tokens");
  const int lowest = trained_embedding != nullptr ? 0 : trained_->first_layer();
  for (int layer = model_.config.num_layers - 1; layer >= lowest; --layer) layer_backward(layer, micro);
  if (trained_embedding == nullptr) return;
  if (!model_.embedding_gain.empty()) backend_.scale_columns(rows(d_residual_), model_.embedding_gain);
  backend_.embed_backward(trained_->gradient(*trained_embedding), rows(d_residual_), micro.batch.token_ids);
}

void TrainingPass::head_backward(const MicroBatch& micro, std::span<const float> weights,
                                 std::span<float> loss) {
  const Parameter* trained_head = trained_->full_matrix("lm_head");
  const float softcap = model_.config.final_logit_softcap;
  for_head_chunks(micro, [&](size_t first, size_t count, Mat logits) {
    const auto chunk = static_cast<int64_t>(count);
    const Mat capped = softcap > 0.0f ? capped_.row_range(0, chunk) : Mat();
    if (softcap > 0.0f) copy_rows(capped, logits);
    backend_.cross_entropy(loss.subspan(first, count), logits, std::span(micro.targets).subspan(first, count),
                           weights.subspan(first, count));
    if (softcap > 0.0f) backend_.softcap_backward(logits, capped, softcap);
    const Mat gathered = head_rows_.row_range(0, chunk), normed = head_normed_.row_range(0, chunk);
    if (trained_head != nullptr)
      backend_.linear_dw(trained_->gradient(*trained_head), logits, normed, options_.dtype);
    const Mat d_head = d_head_.row_range(0, chunk);
    backend_.linear_dx(normed, logits, lm_head(), false);  // d normed; normed itself is not needed again
    backend_.clear(d_head);
    backend_.rmsnorm_backward(d_head, normed, gathered, model_.final_norm, model_.config.rms_norm_eps);
    backend_.scatter_rows(rows(d_residual_), d_head, std::span(micro.target_rows).subspan(first, count));
  });
}

/// Brings back what the layer left behind. For a kept layer that is the pointwise part only.
void TrainingPass::restore(int layer, const MicroBatch& micro, const LayerActivations& acts) {
  if (!is_kept(layer)) {
    if (model_.config.output_norms) {  // whose backward reads what the down projection gave
      layers_.run(layer, micro.batch, *cache_, 0, acts.residual, ConstMat(), acts);
    } else {
      layers_.run_until_activated(layer, micro.batch, *cache_, 0, acts.residual, ConstMat(), acts);
    }
    return;
  }
  const Layer& weights = model_.layers[static_cast<size_t>(layer)];
  const float eps = model_.config.rms_norm_eps;
  backend_.rmsnorm(acts.attention_in, Mat(), acts.residual, ConstMat(), weights.norm(Norm::kInput), eps);
  backend_.rmsnorm(acts.mlp_in, Mat(), acts.middle, ConstMat(), weights.norm(Norm::kMlp), eps);
  backend_.glu(acts.activated, acts.gate_up, model_.config.activation);
}

// d_residual_ enters as the gradient of the layer's output and leaves as that of its input.
void TrainingPass::layer_backward(int layer, const MicroBatch& micro) {
  const LayerActivations acts = activations(layer);
  restore(layer, micro, acts);
  mlp_backward(layer, micro, acts);
  attention_backward(layer, micro, acts);
}

void TrainingPass::mlp_backward(int layer, const MicroBatch& micro, const LayerActivations& acts) {
  const Mat d_out = output_gradient(layer, Norm::kMlpOutput, acts.mlp_out);
  if (model_.config.has_experts()) {
    experts_backward(layer, micro, acts, d_out);
  } else {
    feed_forward_backward(layer, micro, acts, d_out);
  }
  backend_.rmsnorm_backward(rows(d_residual_), rows(d_in_), acts.middle,
                            model_.layers[static_cast<size_t>(layer)].norm(Norm::kMlp),
                            model_.config.rms_norm_eps);
}

/// d_out to d_in_.
void TrainingPass::feed_forward_backward(int layer, const MicroBatch& micro, const LayerActivations& acts,
                                         Mat d_out) {
  const Mat d_activated = rows(d_activated_);
  const Mat d_gate_up = acts.gate_up;  // in place: nothing reads gate_up after glu_backward
  project_backward(d_activated, d_out, acts.activated, layer, Site::kDown, micro);
  backend_.glu_backward(d_gate_up, d_activated, acts.gate_up, model_.config.activation);
  project_backward(rows(d_in_), d_gate_up, acts.mlp_in, layer, Site::kGateUp, micro);
}

/// The same for a mixture: every expert's share by itself, then the router, which learns of an expert's
/// weight w by w · d w = d activated · activated, where d activated already has the factor w.
void TrainingPass::experts_backward(int layer, const MicroBatch& micro, const LayerActivations& acts,
                                    Mat d_out) {
  const Mat d_in = rows(d_in_), d_logits = rows(d_router_);
  const Routing routing = layers_.route(layer, micro.batch, acts);
  std::vector<float> gains(routing.rows.size());
  backend_.clear(d_in);
  for_each_expert(micro.batch, routing, [&](int expert, const auto& share, const BatchRows& selected) {
    const auto some = [&](const Mat& mat) { return mat.row_range(0, share.size()); };
    const Mat activated = acts.of_expert(acts.activated, share),
              gate_up = acts.of_expert(acts.gate_up, share);
    const Mat d_expert = some(acts.expert_out), d_activated = some(d_activated_), in = some(acts.expert_in);
    backend_.gather_rows(d_expert, d_out, share.rows, share.weights);
    project_backward(d_activated, d_expert, activated, layer, down_of(expert), micro, selected);
    backend_.row_dots(std::span(gains).subspan(static_cast<size_t>(share.begin), share.rows.size()),
                      d_activated, activated);
    backend_.glu_backward(gate_up, d_activated, gate_up, model_.config.activation);
    backend_.gather_rows(in, acts.mlp_in, share.rows);
    project_backward(d_expert, gate_up, in, layer, gate_up_of(expert), micro, selected);
    backend_.scatter_add(d_in, d_expert, share.rows);
  });
  backend_.route_backward(d_logits, acts.router_logits, routing, layers_.router_params(), gains);
  const Mat through_router = rows(expert_out_);
  project_backward(through_router, d_logits, acts.mlp_in, layer, Site::kRouter, micro);
  backend_.add(d_in, through_router);
}

void TrainingPass::attention_backward(int layer, const MicroBatch& micro, const LayerActivations& acts) {
  const ModelConfig& config = model_.config;
  const Mat d_attended = rows(d_attended_), d_in = rows(d_in_);
  const Mat d_out = output_gradient(layer, Norm::kAttentionOutput, acts.attention_out);
  project_backward(d_attended, d_out, acts.attended, layer, Site::kO, micro);
  const QkvViews d = split_qkv(rows(d_qkv_), config), x = split_qkv(acts.qkv, config);
  backend_.attention_backward(d.q, d.k, d.v, d_attended, acts.attended, acts.lse, x.q, x.k,
                              split_qkv(acts.projected, config).v, config.head_dim, micro.batch.sequences,
                              layers_.attention_params(layer), options_.dtype);
  backend_.rope_backward(d.q, d.k, config.head_dim, micro.batch.positions, layers_.rope(layer));
  if (config.qk_norm) heads_backward(layer, acts);
  const Mat d_projected = rows(config.qk_norm ? d_projected_ : d_qkv_);
  // Nothing below the lowest adapted layer asks for a gradient.
  const bool ends_here = layer == trained_->first_layer() && trained_->full_matrix("embed_tokens") == nullptr;
  project_backward(ends_here ? Mat() : d_in, d_projected, acts.attention_in, layer, Site::kQkv, micro);
  if (ends_here) return;
  backend_.rmsnorm_backward(rows(d_residual_), d_in, acts.residual,
                            model_.layers[static_cast<size_t>(layer)].norm(Norm::kInput),
                            config.rms_norm_eps);
}

/// The gradient of `out`, which was added to the residual stream, through its norm if it has one.
Mat TrainingPass::output_gradient(int layer, Norm norm, ConstMat out) {
  const std::vector<float>& gain = model_.layers[static_cast<size_t>(layer)].norm(norm);
  if (gain.empty()) return rows(d_residual_);
  const Mat d_out = rows(d_output_);
  backend_.clear(d_out);
  backend_.rmsnorm_backward(d_out, rows(d_residual_), out, gain, model_.config.rms_norm_eps);
  return d_out;
}

/// d_qkv_ to d_projected_, through the norms of q and k.
void TrainingPass::heads_backward(int layer, const LayerActivations& acts) {
  const ModelConfig& config = model_.config;
  const Layer& weights = model_.layers[static_cast<size_t>(layer)];
  const QkvViews from = split_qkv(rows(d_qkv_), config), to = split_qkv(rows(d_projected_), config);
  const QkvViews x = split_qkv(acts.projected, config);
  backend_.clear(to.q);
  backend_.clear(to.k);
  copy_rows(to.v, from.v);
  backend_.rmsnorm_backward(to.q, from.q, x.q, weights.norm(Norm::kQuery), config.rms_norm_eps);
  backend_.rmsnorm_backward(to.k, from.k, x.k, weights.norm(Norm::kKey), config.rms_norm_eps);
}

/// Backward of LayerForward::project: dx = the gradient of its input (not formed when dx is empty), the
/// pairs' gradients +=.
void TrainingPass::project_backward(Mat dx, Mat dy, ConstMat x, int layer, Site site, const MicroBatch& micro,
                                    const BatchRows& selected) {
  const auto pairs = trained_->gradients_at(layer, site);
  if (!pairs.empty() && adapter_ != nullptr && !adapter_->gain(layer, site).empty()) {
    const Mat scaled = d_gained_.row_range(0, dy.rows).columns(0, dy.cols);
    copy_rows(scaled, dy);
    gain_backward(scaled, x, layer, site, micro, selected);
    dy = scaled;
  }
  if (dx.data != nullptr)
    backend_.linear_dx(dx, dy, *model_.layers[static_cast<size_t>(layer)].at(site).weight, false);
  if (pairs.empty()) return;
  if (!micro.batch.adapter_input) {
    backend_.lora_backward(dx, dy, x, pairs, options_.dtype);
    return;
  }
  const ConstMat dropped = micro.batch.adapter_input(x, layer, site, selected.rows);
  const Mat d_dropped = dx.data == nullptr ? Mat() : d_dropped_.row_range(0, x.rows).columns(0, x.cols);
  backend_.clear(d_dropped);
  backend_.lora_backward(d_dropped, dy, dropped, pairs, options_.dtype);
  if (dx.data != nullptr) {
    backend_.dropout(dx, d_dropped, static_cast<float>(options_.dropout),
                     {keys_of(micro.row_keys, selected.rows), dropout_stream(layer, site)}, true);
  }
}

/// DoRA's y = gain ∘ z + bias with gain = magnitude / norm, the norm a constant: d magnitude = Σ dy·z / norm
/// = Σ dy·(y - bias) / magnitude, dz = gain ∘ dy. y is computed again, it is kept nowhere.
void TrainingPass::gain_backward(Mat dy, ConstMat x, int layer, Site site, const MicroBatch& micro,
                                 const BatchRows& selected) {
  const Mat y = gained_.row_range(0, dy.rows).columns(0, dy.cols);
  layers_.project(y, x, layer, site, micro.batch, selected);
  std::vector<float> minus_bias = model_.layers[static_cast<size_t>(layer)].at(site).bias;
  for (float& value : minus_bias) value = -value;
  const std::vector<float> ones(minus_bias.size(), 1.0f);
  if (!minus_bias.empty()) backend_.scale_columns(y, ones, minus_bias);
  std::vector<float> dots(static_cast<size_t>(dy.cols));
  backend_.column_dots(dots, dy, y);
  const auto modules = linear_modules(model_.config);
  for (const TrainablePair& pair : trained_->pairs()) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    if (pair.layer != layer || module.site != site) continue;
    const Parameter& parameter = trained_->parameters()[pair.magnitude];
    const Mat magnitude = trained_->value(parameter), gradient = trained_->gradient(parameter);
    for (int64_t n = 0; n < module.n_count; ++n) {
      const float m = magnitude.data[n];
      if (m != 0.0f) gradient.data[n] += dots[static_cast<size_t>(module.n_begin + n)] / m;
    }
  }
  backend_.scale_columns(dy, adapter_->gain(layer, site));
}

}  // namespace polylora
