// What the fuzzers of adapters share: how an input is a folder, and a model to hold it against.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/error.h"
#include "fuzz_folder.h"
#include "io/adapter_file.h"
#include "io_fuzz_file.h"
#include "model/random_model.h"
#include "ops/backend.h"

namespace polylora {

struct FuzzBase {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

inline const FuzzBase& fuzz_base() {
  static const FuzzBase base = [] {
    ModelConfig config;
    config.model_type = "llama";
    config.hidden_size = config.intermediate_size = 8;
    config.num_layers = 2;
    config.num_heads = config.num_kv_heads = 2;
    config.head_dim = 4;
    config.vocab_size = 16;
    FuzzBase made{make_backend({.name = "ref"}), nullptr};
    made.model = make_random_model(config, *made.backend, WeightFormat::kF32);
    return made;
  }();
  return base;
}

/// Calls `read` with the folder, whose adapter_config.json is the input up to its first NUL and whose file of
/// tensors is the rest.
template <typename Read>
void as_adapter_folder(const FuzzFolder& folder, const char* weights_name, std::span<const uint8_t> input,
                       Read read) {
  const uint8_t *begin = input.data(), *end = begin + input.size();
  const uint8_t* split = std::find(begin, end, 0);
  const uint8_t* tensors_begin = std::min(split + 1, end);
  const FuzzFile config(begin, static_cast<size_t>(split - begin));
  const FuzzFile tensors(tensors_begin, static_cast<size_t>(end - tensors_begin));
  folder.link("adapter_config.json", config.path());
  folder.link(weights_name, tensors.path());
  read(folder.path());
}

/// An adapter may be refused, but our own invariants hold.
template <typename Read>
void expect_errors_only(Read read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) __builtin_trap();
  }
}

/// As serving does: the header, and if that passes, the weights.
inline void load_adapter(const std::filesystem::path& path) {
  const FuzzBase& base = fuzz_base();
  expect_errors_only(
      [&] { AdapterFile(path, base.model->config).load(*base.model, *base.backend, DType::kF32); });
}

}  // namespace polylora
