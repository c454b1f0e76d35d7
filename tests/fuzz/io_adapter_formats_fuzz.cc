// Adapters of mlx-lm and llama.cpp. The first byte chooses: a GGUF file, or an MLX folder whose
// adapter_config.json goes up to the next NUL and whose adapters.safetensors is the rest.
#include "fuzz_adapter.h"
#include "io/peft_adapter.h"

namespace polylora {
namespace {

void read_both_ways(const std::filesystem::path& path) {
  load_adapter(path);
  expect_errors_only([&] { PeftAdapter(path, fuzz_base().model->config.head_dim); });
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const FuzzFolder folder("io_adapter_formats_fuzz");
  if (size == 0) return 0;
  const std::span<const uint8_t> input(data + 1, size - 1);
  if (data[0] % 2 == 0) {
    read_both_ways(FuzzFile(input.data(), input.size()).path());
  } else {
    as_adapter_folder(folder, "adapters.safetensors", input, read_both_ways);
  }
  return 0;
}
