// llama.cpp's form of an adapter (what its convert_lora_to_gguf.py writes, and llama_adapter_lora_init
// reads): for every adapted tensor NAME the tensors NAME.lora_a [R,in] and NAME.lora_b [out,R] in f32,
// applied as W + alpha/R · B·A. Rows of B follow those of the weight, so q and k are interleaved; the
// embedding's A is [vocabulary, R].
#include <memory>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/gguf_architectures.h"
#include "io/gguf_checkpoint.h"
#include "io/gguf_writer.h"
#include "tune/merge/export_format.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

struct Target {
  TensorSpec spec;
  const PeftModule* module = nullptr;
};

void refuse_unwritable(const std::string& where, const PeftModule& module) {
  const char* what = module.magnitude != nullptr                              ? "DoRA"
                     : module.b_bias != nullptr || module.new_bias != nullptr ? "a trained bias"
                     : module.a == nullptr ? "a module trained in full (modules_to_save)"
                                           : nullptr;
  if (what == nullptr) return;
  fail(ErrorCode::kUnsupported,
       "{}: {} has no form as a GGUF adapter; export the merged model with format: gguf", where, what);
}

std::vector<Target> list_targets(const ExportJob& job, const ModelConfig& config) {
  const PeftAdapter& adapter = job.adapters.front();
  std::vector<Target> targets;
  for_each_tensor(config, [&](const TensorSpec& spec) {
    constexpr std::string_view kWeight = ".weight";
    if (!spec.name.ends_with(kWeight)) return;
    const auto found = adapter.modules().find(spec.name.substr(0, spec.name.size() - kWeight.size()));
    if (found != adapter.modules().end()) targets.push_back({spec, &found->second});
  });
  if (targets.size() == adapter.modules().size()) return targets;
  fail(
      ErrorCode::kUnsupported,
      "{}: it adapts lm_head, which this base ties to the embedding; llama.cpp cannot apply that: export the "
      "merged model with format: gguf",
      adapter.path().string());
}

std::vector<float> values_of(const TensorView& tensor) {
  const auto count = static_cast<int64_t>(tensor.data.size()) / dtype_block_bytes(tensor.dtype);
  std::vector<float> values(static_cast<size_t>(count));
  dequantize_row(tensor.dtype, tensor.data.data(), count, values.data());
  return values;
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  std::vector<float> out(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      out[static_cast<size_t>(c * rows + r)] = values[static_cast<size_t>(r * cols + c)];
  }
  return out;
}

/// Stored rows 2i and 2i+1 of a head are rows i and i + E/2.
std::vector<float> interleaved(const std::vector<float>& values, int64_t rank, int64_t head_dim) {
  std::vector<float> out(values.size());
  const int64_t rows = static_cast<int64_t>(values.size()) / rank;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t within = row % head_dim;
    const int64_t from = row - within + within / 2 + within % 2 * (head_dim / 2);
    std::copy_n(values.begin() + from * rank, rank, out.begin() + row * rank);
  }
  return out;
}

/// B as llama.cpp reads it: it multiplies with alpha/R, so what rsLoRA and alpha_pattern say beyond that goes
/// into the values.
std::vector<float> stored_b(const Target& target, float alpha, const ModelConfig& config) {
  const PeftModule& module = *target.module;
  std::vector<float> b = values_of(*module.b);
  const float assumed = alpha / static_cast<float>(module.rank);
  if (module.scale != assumed) {
    for (float& value : b) value *= module.scale / assumed;
  }
  return is_rotary_interleaved(target.spec, config) ? interleaved(b, module.rank, config.head_dim) : b;
}

std::vector<TensorInfo> list_tensors(const std::vector<Target>& targets) {
  std::vector<TensorInfo> infos;
  for (const Target& target : targets) {
    const std::string name = gguf_tensor_name(target.spec);
    std::vector<int64_t> shape_a = target.module->a->shape;
    if (target.module->is_embedding) std::swap(shape_a[0], shape_a[1]);
    infos.push_back({name + ".lora_a", DType::kF32, shape_a});
    infos.push_back({name + ".lora_b", DType::kF32, target.module->b->shape});
  }
  return infos;
}

}  // namespace

ExportReport export_gguf_lora(const ExportJob& job) {
  if (job.adapters.size() != 1) {
    fail(ErrorCode::kInvalidArgument, "format gguf-lora converts one adapter; adapter_name_or_path names {}",
         job.adapters.size());
  }
  const PeftAdapter& adapter = job.adapters.front();
  for (const auto& [path, module] : adapter.modules())
    refuse_unwritable(adapter.path().string() + ": " + path, module);
  const auto checkpoint = Checkpoint::open(job.base.path());
  const ModelConfig& config = checkpoint->config();
  const std::vector<Target> targets = list_targets(job, config);
  const std::vector<TensorInfo> infos = list_tensors(targets);
  const double stated = adapter.config().lora_alpha;
  const float alpha = stated > 0 ? static_cast<float>(stated) : 1.0f;

  const fs::path path = job.config.export_dir / "adapter.gguf";
  ExportReport report{.tensors = infos.size(), .merged = 0, .dtype = "F32", .files = {path}, .notices = {}};
  for (const TensorInfo& info : infos) report.bytes += info.bytes();
  check_space(job.config.export_dir, report.bytes);
  const auto writer =
      open_gguf_writer(path,
                       {{"general.architecture", std::string(gguf_architecture_of(config.model_type).name)},
                        {"general.type", std::string("adapter")},
                        {"general.name", adapter.path().filename().string()},
                        {"general.file_type", uint32_t{0}},
                        {"adapter.type", std::string("lora")},
                        {"adapter.lora.alpha", alpha}},
                       infos);
  for (size_t i = 0; i < targets.size(); ++i) {
    const PeftModule& module = *targets[i].module;
    const std::vector<float> a = values_of(*module.a);
    const auto written_a = module.is_embedding ? transposed(a, module.rank) : a;
    writer->write(2 * i, 0, std::as_bytes(std::span(written_a)));
    const auto written_b = stored_b(targets[i], alpha, config);
    writer->write(2 * i + 1, 0, std::as_bytes(std::span(written_b)));
  }
  writer->commit();
  return report;
}

}  // namespace polylora
