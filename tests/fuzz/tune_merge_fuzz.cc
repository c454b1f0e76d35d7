// An adapter folder to be merged: the input up to its first NUL is adapter_config.json, the rest
// adapter_model.safetensors. What opens is planned against a small model and every changed tensor is merged.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "fuzz_folder.h"
#include "io/peft_adapter.h"
#include "io_fuzz_file.h"
#include "tune/merge/merge.h"

namespace polylora {
namespace {

/// A linear layer with a bias, an embedding that lm_head is tied to, a norm.
BaseTensors make_base(const std::filesystem::path& folder) {
  static const std::vector<float> values(64, 0.5f);
  const auto tensor = [](std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    return TensorView{DType::kF32, std::move(shape),
                      std::as_bytes(std::span(values).first(static_cast<size_t>(count)))};
  };
  write_safetensors(folder / "model.safetensors", {{"model.embed_tokens.weight", tensor({6, 4})},
                                                   {"p.weight", tensor({3, 4})},
                                                   {"p.bias", tensor({3})},
                                                   {"norm.weight", tensor({4})}});
  write_file_atomic(folder / "config.json", R"({"tie_word_embeddings": true})");
  return BaseTensors(folder);
}

void merge_all(const BaseTensors& base, const std::filesystem::path& folder) {
  static const std::unique_ptr<TrainingBackend> backend = make_training_backend({.name = "ref"});
  std::vector<PeftAdapter> adapters;
  adapters.emplace_back(folder, base.head_dim());
  const MergePlan plan(base, adapters);
  RowMerger merger(*backend, DType::kBf16);
  for (const BaseTensor& tensor : base.tensors()) {
    std::vector<int64_t> rows(static_cast<size_t>(tensor.rows));
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<float> merged(rows.size() * static_cast<size_t>(tensor.cols));
    merger.merge(tensor, plan.edits(tensor.name), rows, Mat(merged.data(), tensor.rows, tensor.cols));
  }
  if (plan.unties()) plan.edits("lm_head.weight");
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const FuzzFolder base_folder("tune_merge_fuzz_base"), folder("tune_merge_fuzz");
  static const BaseTensors base = make_base(base_folder.path());
  const uint8_t* split = std::find(data, data + size, 0);
  const uint8_t* tensors_begin = std::min(split + 1, data + size);
  const FuzzFile config(data, static_cast<size_t>(split - data));
  const FuzzFile tensors(tensors_begin, static_cast<size_t>(data + size - tensors_begin));
  folder.link("adapter_config.json", config.path());
  folder.link("adapter_model.safetensors", tensors.path());
  try {
    merge_all(base, folder.path());
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) __builtin_trap();
  }
  return 0;
}
