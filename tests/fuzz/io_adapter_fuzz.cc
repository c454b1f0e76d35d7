// An adapter folder: the input up to its first NUL is adapter_config.json, the rest
// adapter_model.safetensors.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "io/adapter_file.h"
#include "io_fuzz_file.h"
#include "model/random_model.h"

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

/// One folder of links for the whole run; the links are pointed at each input's files.
const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    const auto made = std::filesystem::temp_directory_path() / fmt::format("io_adapter_fuzz.{}", ::getpid());
    std::filesystem::create_directory(made);
    return made;
  }();
  return path;
}

void link(const char* name, const std::filesystem::path& target) {
  std::filesystem::remove(folder() / name);
  std::filesystem::create_symlink(target, folder() / name);
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const std::unique_ptr<Backend> backend = make_backend({.name = "ref"});
  static const std::unique_ptr<Model> model = make_random_model(tiny_model(), *backend, WeightFormat::kF32);
  const uint8_t* split = std::find(data, data + size, 0);
  const uint8_t* tensors_begin = std::min(split + 1, data + size);
  const FuzzFile config(data, static_cast<size_t>(split - data));
  const FuzzFile tensors(tensors_begin, static_cast<size_t>(data + size - tensors_begin));
  link("adapter_config.json", config.path());
  link("adapter_model.safetensors", tensors.path());
  try {
    AdapterFile(folder(), model->config).load(*model, *backend, DType::kF32);
  } catch (const Error&) {
  }
  return 0;
}
