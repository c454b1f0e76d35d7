#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "io/checkpoint.h"
#include "ops/quant.h"

namespace polylora {
namespace {

/// One matrix to pack: where its rows come from, what becomes of it.
struct PackJob {
  WeightSource source;
  WeightFormat format = WeightFormat::kBf16;
  std::unique_ptr<Weight>* target = nullptr;
};

/// Quantised rows keep about their width; plain floats, alone or fused with those, become bf16.
WeightFormat native_or_bf16(const WeightSource& source) {
  const bool all_coded = std::all_of(source.rows.begin(), source.rows.end(),
                                     [](const WeightSource::Row& row) { return row.codes().bits != 0; });
  return all_coded && source.cols % kQuantGroup == 0 ? native_format(source) : WeightFormat::kBf16;
}

WeightFormat choose_format(const WeightSource& source, WeightPolicy policy, bool is_embedding) {
  switch (policy) {
    case WeightPolicy::kNative:
      return native_or_bf16(source);
    case WeightPolicy::kF32:
      return WeightFormat::kF32;
    case WeightPolicy::kBf16:
      return WeightFormat::kBf16;
    case WeightPolicy::kQ8:
      return WeightFormat::kQ8;
    case WeightPolicy::kQ4:
      break;
  }
  return is_embedding ? WeightFormat::kQ8 : WeightFormat::kQ4;
}

std::vector<float> read_vector(const Checkpoint& checkpoint, const TensorSpec& spec) {
  WeightSource source;
  checkpoint.append_rows(spec, source);
  std::vector<float> values(static_cast<size_t>(source.cols));
  source.rows.front().read(source.cols, values.data());
  for (const float value : values) {
    if (!std::isfinite(value)) fail(ErrorCode::kDataCorrupt, "tensor {} holds NaN or infinity", spec.name);
  }
  return values;
}

/// transformers rounds the scale to what the model computes in, which is bf16 unless exactness was asked for.
std::vector<float> embedding_gain(const ModelConfig& config, WeightPolicy policy) {
  const float exact = config.embedding_scale;
  if (exact == 1.0f) return {};
  const float scale = policy == WeightPolicy::kF32 ? exact : bf16_to_f32(f32_to_bf16(exact));
  return std::vector<float>(static_cast<size_t>(config.hidden_size), scale);
}

/// Walks the tensor list once: vectors are read on the spot, matrices become jobs; q/k/v and gate/up rows end
/// up in one job because their modules share a site.
class ModelPlan {
 public:
  ModelPlan(const Checkpoint& checkpoint, Model& model) : checkpoint_(checkpoint), model_(model) {
    model.config = checkpoint.config();
    model.layers = make_layers(model.config);
    sites_.resize(model.layers.size() * site_count(model.config));
    for_each_tensor(model.config, [this](const TensorSpec& spec) { add(spec); });
  }

  std::vector<PackJob> take_jobs(WeightPolicy policy) {
    std::vector<PackJob> jobs;
    const auto add_job = [&](WeightSource& source, std::unique_ptr<Weight>& target, WeightFormat format) {
      jobs.push_back({std::move(source), format, &target});
    };
    add_job(embedding_, model_.embedding, choose_format(embedding_, policy, true));
    if (!lm_head_.rows.empty()) add_job(lm_head_, model_.lm_head, choose_format(lm_head_, policy, true));
    const std::vector<Site> all_sites = sites(model_.config);
    for (int layer = 0; layer < model_.config.num_layers; ++layer) {
      for (const Site site : all_sites) {
        WeightSource& source = site_source(layer, site);
        // Which experts a token goes to turns on small differences.
        const WeightFormat format =
            site == Site::kRouter ? WeightFormat::kF32 : choose_format(source, policy, false);
        add_job(source, model_.layers[static_cast<size_t>(layer)].at(site).weight, format);
      }
    }
    return jobs;
  }

 private:
  void add(const TensorSpec& spec) {
    using Role = TensorSpec::Role;
    switch (spec.role) {
      case Role::kEmbedding:
        return checkpoint_.append_rows(spec, embedding_);
      case Role::kLmHead:
        return checkpoint_.append_rows(spec, lm_head_);
      case Role::kFinalNorm:
        model_.final_norm = read_gain(spec);
        return;
      case Role::kNorm:
        layer(spec).norm(static_cast<Norm>(spec.module)) = read_gain(spec);
        return;
      case Role::kLinearWeight:
        return checkpoint_.append_rows(spec, site_source(spec.layer, spec.site));
      case Role::kLinearBias: {
        const std::vector<float> part = read_vector(checkpoint_, spec);
        std::vector<float>& bias = layer(spec).at(spec.site).bias;
        bias.insert(bias.end(), part.begin(), part.end());
        return;
      }
    }
  }

  std::vector<float> read_gain(const TensorSpec& spec) const {
    std::vector<float> gain = read_vector(checkpoint_, spec);
    for (float& value : gain) value += model_.config.norm_offset;
    return gain;
  }

  Layer& layer(const TensorSpec& spec) { return model_.layers[static_cast<size_t>(spec.layer)]; }
  WeightSource& site_source(int layer, Site site) {
    return sites_[static_cast<size_t>(layer) * site_count(model_.config) + static_cast<size_t>(site)];
  }

  const Checkpoint& checkpoint_;
  Model& model_;
  WeightSource embedding_, lm_head_;
  std::vector<WeightSource> sites_;  // [layer][site]
};

/// "Q4_K as q4, Q6_K as q8".
std::string describe_formats(const std::vector<PackJob>& jobs) {
  std::set<std::string> kinds;
  for (const PackJob& job : jobs) {
    std::string_view last;
    for (const WeightSource::Row& row : job.source.rows) {
      if (row.format_name() == last) continue;
      last = row.format_name();
      kinds.insert(fmt::format("{} as {}", last, weight_format_name(job.format)));
    }
  }
  return fmt::format("{}", fmt::join(kinds, ", "));
}

size_t stored_bytes(const WeightSource& source) {
  size_t bytes = 0;
  for (const WeightSource::Row& row : source.rows) bytes += row.bytes(source.cols);
  return bytes;
}

/// Packs on a few threads: packing is bound by page faults on both sides, which overlap well. Pages of the
/// checkpoint that were read are given back every now and then, so that resident memory stays near what the
/// packed weights take.
class JobRunner {
 public:
  JobRunner(const Checkpoint& checkpoint, Backend& backend, std::vector<PackJob> jobs,
            const ProgressFn& progress)
      : checkpoint_(checkpoint), backend_(backend), jobs_(std::move(jobs)), progress_(progress) {}

  void run() {
    const unsigned helpers = std::min(7u, std::max(1u, std::thread::hardware_concurrency()) - 1);
    {
      std::vector<std::jthread> threads;  // joined here, also when the progress callback throws
      for (unsigned i = 0; i < helpers; ++i) threads.emplace_back([this] { work(false); });
      work(true);
    }
    checkpoint_.drop_pages();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr size_t kDropEvery = size_t{256} << 20;

  void work(bool reports) {
    for (size_t i = next_++; i < jobs_.size() && !failed_; i = next_++) {
      pack(jobs_[i]);
      ++done_;
      if (reports && progress_)
        progress_("loading weights", static_cast<double>(done_) / static_cast<double>(jobs_.size()));
    }
  }

  void pack(PackJob& job) {
    try {
      *job.target = backend_.pack_weight(job.source, job.format);
      const size_t bytes = stored_bytes(job.source), before = read_bytes_.fetch_add(bytes);
      job.source = {};  // the list of a mixture's rows is long
      if (before / kDropEvery != (before + bytes) / kDropEvery) checkpoint_.drop_pages();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      failed_ = true;
      if (!error_) error_ = std::current_exception();
    }
  }

  const Checkpoint& checkpoint_;
  Backend& backend_;
  std::vector<PackJob> jobs_;
  const ProgressFn& progress_;
  std::atomic<size_t> next_ = 0, done_ = 0, read_bytes_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, Backend& backend, WeightPolicy policy,
                                  const ProgressFn& progress) {
  auto model = std::make_unique<Model>();
  ModelPlan plan(checkpoint, *model);
  model->embedding_gain = embedding_gain(model->config, policy);
  std::vector<PackJob> jobs = plan.take_jobs(policy);
  model->formats = describe_formats(jobs);
  JobRunner(checkpoint, backend, std::move(jobs), progress).run();
  return model;
}

}  // namespace polylora
