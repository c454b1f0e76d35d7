// Adapters of mlx-lm and llama.cpp. The first byte chooses: a GGUF file, or an MLX folder whose
// adapter_config.json goes up to the next NUL and whose adapters.safetensors is the rest.
#include <algorithm>
#include <memory>

#include "base/error.h"
#include "fuzz_folder.h"
#include "io/adapter_file.h"
#include "io/peft_adapter.h"
#include "io_fuzz_file.h"

namespace polylora {
namespace {

ModelConfig tiny_model() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = config.intermediate_size = 8;
  config.num_layers = 2;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 4;
  config.vocab_size = 16;
  return config;
}

template <typename Read>
void expect_errors_only(Read read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) __builtin_trap();
  }
}

void read_both_ways(const std::filesystem::path& path) {
  static const std::unique_ptr<Backend> backend = make_backend({.name = "ref"});
  const ModelConfig model = tiny_model();
  expect_errors_only([&] { AdapterFile(path, model).load(*backend, DType::kF32); });
  expect_errors_only([&] { PeftAdapter(path, model.head_dim); });
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const FuzzFolder folder("io_adapter_formats_fuzz");
  if (size == 0) return 0;
  const uint8_t *begin = data + 1, *end = data + size;
  if (data[0] % 2 == 0) {
    const FuzzFile gguf(begin, static_cast<size_t>(end - begin));
    read_both_ways(gguf.path());
    return 0;
  }
  const uint8_t* split = std::find(begin, end, 0);
  const uint8_t* tensors_begin = std::min(split + 1, end);
  const FuzzFile config(begin, static_cast<size_t>(split - begin));
  const FuzzFile tensors(tensors_begin, static_cast<size_t>(end - tensors_begin));
  folder.link("adapter_config.json", config.path());
  folder.link("adapters.safetensors", tensors.path());
  read_both_ways(folder.path());
  return 0;
}
