#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"
#include "io/safetensors_writer.h"
#include "io/text_assets_writer.h"
#include "tune/merge/export_format.h"
#include "tune/merge/tensor_stream.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kLmHead = "lm_head.weight";

std::string_view hf_dtype_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

OutputTensor output_tensor(const ExportJob& job, const std::string& name, const BaseTensor& source) {
  const DType dtype = is_float(source.dtype) ? job.write_dtype : source.dtype;
  return {.info = {name, dtype, source.shape}, .source = &source, .edits = job.plan.edits(name)};
}

/// Everything the folder will hold, in the base's order. A tied model's lm_head is written only when adapters
/// made it differ from the embedding.
std::vector<OutputTensor> list_outputs(const ExportJob& job) {
  std::vector<OutputTensor> outputs;
  const bool tied = job.base.is_tied() && input_embedding(job.base) != nullptr;
  for (const BaseTensor& tensor : job.base.tensors()) {
    if (!tied || tensor.name != kLmHead) outputs.push_back(output_tensor(job, tensor.name, tensor));
  }
  if (job.plan.unties())
    outputs.push_back(output_tensor(job, std::string(kLmHead), *input_embedding(job.base)));
  return outputs;
}

/// How many of the outputs, from `begin` on, go into one file: as many as fit, at least one.
size_t count_that_fit(std::span<const OutputTensor> outputs, double limit) {
  double size = 0.0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    size += static_cast<double>(outputs[i].info.bytes());
    if (size > limit && i > 0) return i;
  }
  return outputs.size();
}

/// Consecutive runs of the outputs, one a file.
std::vector<std::span<OutputTensor>> cut_into_shards(std::span<OutputTensor> outputs, double limit) {
  std::vector<std::span<OutputTensor>> shards;
  while (!outputs.empty()) {
    const size_t count = count_that_fit(outputs, limit);
    shards.push_back(outputs.first(count));
    outputs = outputs.subspan(count);
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  return count == 1 ? "model.safetensors"
                    : fmt::format("model-{:05d}-of-{:05d}.safetensors", index + 1, count);
}

std::unique_ptr<TensorWriter> open_shard(const fs::path& path, std::span<OutputTensor> shard) {
  std::vector<TensorInfo> infos;
  for (const OutputTensor& output : shard) infos.push_back(output.info);
  auto writer = open_safetensors_writer(path, infos);
  for (size_t i = 0; i < shard.size(); ++i) {
    shard[i].writer = writer.get();
    shard[i].index = i;
  }
  return writer;
}

std::string make_index(std::span<const std::span<OutputTensor>> shards, uint64_t total) {
  Json weight_map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const OutputTensor& output : shards[i]) weight_map[output.info.name] = shard_name(i, shards.size());
  }
  return Json{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}}.dump(2) + "\n";
}

bool is_weight_file(const std::string& name) {
  return name == "model.safetensors" || name == "model.safetensors.index.json" ||
         (name.starts_with("model-") && name.find("-of-") != std::string::npos &&
          name.ends_with(".safetensors"));
}

/// Weights of an earlier export, which a loader might take for these.
void remove_stale_weights(const fs::path& folder, const std::set<std::string>& written) {
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (is_weight_file(name) && !written.contains(name)) stale.push_back(entry.path());
  }
  std::error_code ignored;
  for (const fs::path& path : stale) fs::remove(path, ignored);
}

std::string make_config(const ExportJob& job) {
  Json config = job.base.config();
  const std::string_view dtype = hf_dtype_name(job.write_dtype);
  if (config.contains("dtype")) config["dtype"] = dtype;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = dtype;
  if (job.plan.unties()) config["tie_word_embeddings"] = false;
  return config.dump(2) + "\n";
}

/// Batched generation pads on the left; what a trainer left there would be wrong for a finished model.
std::string with_left_padding(const std::string& text, const std::string& where) {
  Json config = parse_ordered_json(text, where);
  if (!config.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", where);
  config["padding_side"] = "left";
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void copy_text_files(const fs::path& from, const fs::path& to) {
  for (const char* name :
       {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"}) {
    if (!path_exists(from / name)) continue;
    std::string text = read_text_file(from / name);
    if (std::string_view(name) == "tokenizer_config.json")
      text = with_left_padding(text, (from / name).string());
    write_file_atomic(to / name, text);
  }
}

void write_text_of_gguf(const Checkpoint& gguf, const fs::path& to) {
  write_tokenizer_files(to, gguf);
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    if (gguf.hf_config().contains(key)) generation[key] = gguf.hf_config()[key];
  }
  write_file_atomic(to / "generation_config.json", generation.dump(2) + "\n");
}

}  // namespace

ExportReport export_safetensors(const ExportJob& job) {
  const fs::path& folder = job.config.export_dir;
  std::vector<OutputTensor> outputs = list_outputs(job);
  ExportReport report{.tensors = outputs.size(),
                      .dtype = std::string(dtype_name(job.write_dtype)),
                      .files = {},
                      .notices = {}};
  for (const OutputTensor& output : outputs) {
    report.bytes += output.info.bytes();
    report.merged += output.edits.empty() ? 0 : 1;
  }
  check_space(folder, report.bytes);

  const auto shards = cut_into_shards(outputs, job.config.export_size * 1e9);
  std::vector<std::unique_ptr<TensorWriter>> writers;
  std::set<std::string> names;
  for (size_t i = 0; i < shards.size(); ++i) {
    names.insert(shard_name(i, shards.size()));
    writers.push_back(open_shard(folder / shard_name(i, shards.size()), shards[i]));
  }
  write_tensors(job.base, outputs,
                {.load_dtype = job.load_dtype,
                 .threads = job.config.threads,
                 .progress = job.progress,
                 .cancelled = job.cancelled});
  for (const auto& writer : writers) writer->commit();
  if (shards.size() > 1) {
    names.insert("model.safetensors.index.json");
    write_file_atomic(folder / "model.safetensors.index.json", make_index(shards, report.bytes));
  }
  remove_stale_weights(folder, names);
  for (const std::string& name : names) report.files.push_back(folder / name);

  if (job.base.is_gguf()) {
    write_text_of_gguf(job.base.gguf(), folder);
  } else {
    copy_text_files(job.base.path(), folder);
  }
  write_modelfile(folder, job.config.template_name, report);
  write_file_atomic(folder / "config.json", make_config(job));  // last: with it the folder is a model
  if (job.plan.unties()) {
    report.notices.push_back(
        "the base ties lm_head to the embedding and the adapter does not change both as one: lm_head.weight "
        "is "
        "written and tie_word_embeddings is false");
  }
  return report;
}

}  // namespace polylora
