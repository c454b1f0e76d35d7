#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/gguf_architectures.h"
#include "io/gguf_checkpoint.h"
#include "io/gguf_metadata.h"
#include "tune/merge/export_format.h"
#include "tune/merge/tensor_stream.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

BaseTensor rope_tensor(const GgufRopeTensor& rope) {
  const auto size = static_cast<int64_t>(rope.divisors.size());
  return {.name = rope.name,
          .shape = {size},
          .dtype = DType::kF32,
          .cols = size,
          .data = reinterpret_cast<const std::byte*>(rope.divisors.data()),
          .scattered = {}};
}

/// Vectors stay f32, as llama.cpp wants them, and norms are the gains themselves.
OutputTensor output_tensor(const ExportJob& job, const TensorSpec& spec, const BaseTensor& source,
                           const ModelConfig& config) {
  const DType dtype = spec.cols == 0 ? DType::kF32 : job.write_dtype;
  return {.info = {gguf_tensor_name(spec), dtype, source.shape},
          .source = &source,
          .edits = job.plan.edits(spec.name),
          .expert = spec.expert,
          .rotary_pairs_of = is_rotary_interleaved(spec, config) ? config.head_dim : 0,
          .added = is_norm(spec) ? config.norm_offset : 0.0f};
}

/// The tensors of the file: those of the outputs, where all experts' matrices of a kind are one. Says in each
/// output where it goes.
std::vector<TensorInfo> lay_out(std::vector<OutputTensor>& outputs, int experts) {
  std::vector<TensorInfo> infos;
  std::map<std::string, size_t> index_of;
  for (OutputTensor& output : outputs) {
    const auto [found, is_new] = index_of.try_emplace(output.info.name, infos.size());
    output.index = found->second;
    if (is_new) {
      infos.push_back(output.info);
      if (output.expert >= 0) infos.back().shape.insert(infos.back().shape.begin(), experts);
    }
    output.at = output.expert > 0 ? static_cast<uint64_t>(output.expert) * output.info.bytes() : 0;
  }
  return infos;
}

void refuse_unwritable(const ModelConfig& config, const std::string& where) {
  const bool interleaved = gguf_architecture_of(config.model_type).interleaves_heads;
  if (config.qkv_bias && interleaved) {
    fail(ErrorCode::kUnsupported,
         "{}: biases on q_proj and k_proj are not written to GGUF; export safetensors and convert the folder "
         "with llama.cpp",
         where);
  }
  if (const std::string what = gguf_lacks(config); !what.empty())
    fail(ErrorCode::kUnsupported, "{}: {} has no GGUF form; export safetensors", where, what);
}

std::vector<OutputTensor> list_outputs(const ExportJob& job, const ModelConfig& config) {
  ModelConfig written = config;
  if (job.plan.unties()) written.tie_word_embeddings = false;
  std::vector<OutputTensor> outputs;
  for_each_tensor(written, [&](const TensorSpec& spec) {
    const BaseTensor* source = job.base.find(spec.name);
    if (spec.role == TensorSpec::Role::kLmHead && job.plan.unties()) source = input_embedding(job.base);
    if (source == nullptr) {
      fail(ErrorCode::kDataCorrupt, "{}: tensor {} is missing", job.base.path().string(), spec.name);
    }
    outputs.push_back(output_tensor(job, spec, *source, config));
  });
  return outputs;
}

}  // namespace

ExportReport export_gguf(const ExportJob& job) {
  const auto checkpoint = Checkpoint::open(job.base.path());
  const std::string where = job.base.path().string();
  ModelConfig config = checkpoint->config();
  config.norm_offset =
      parse_model_config(checkpoint->hf_config(), where).norm_offset;  // as job.base has them
  refuse_unwritable(config, where);
  GgufMetadata metadata =
      gguf_model_metadata(config, job.config.export_dir.filename().string(), job.write_dtype);
  add_gguf_tokenizer(config, checkpoint->text(), where + ": tokenizer.json", metadata);

  std::vector<OutputTensor> outputs = list_outputs(job, config);
  const std::vector<GgufRopeTensor> rope = gguf_rope_tensors(config);
  std::vector<BaseTensor> rope_sources;
  for (const GgufRopeTensor& tensor : rope) rope_sources.push_back(rope_tensor(tensor));
  for (const BaseTensor& source : rope_sources)
    outputs.push_back({.info = {source.name, DType::kF32, source.shape}, .source = &source, .edits = {}});

  const fs::path path = job.config.export_dir / "model.gguf";
  ExportReport report{.tensors = outputs.size(),
                      .dtype = std::string(dtype_name(job.write_dtype)),
                      .files = {path},
                      .notices = {}};
  const std::vector<TensorInfo> infos = lay_out(outputs, config.experts.count);
  for (const OutputTensor& output : outputs) {
    report.bytes += output.info.bytes();
    report.merged += output.edits.empty() ? 0 : 1;
  }
  check_space(job.config.export_dir, report.bytes);
  const auto writer = open_gguf_writer(path, metadata, infos);
  for (OutputTensor& output : outputs) output.writer = writer.get();
  write_tensors(job.base, outputs,
                {.load_dtype = job.load_dtype,
                 .threads = job.config.threads,
                 .progress = job.progress,
                 .cancelled = job.cancelled});
  writer->commit();
  if (checkpoint->text().tokenizer_json.empty())
    report.notices.push_back("the base has no tokenizer: model.gguf takes and gives token ids only");
  return report;
}

}  // namespace polylora
