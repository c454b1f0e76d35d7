// A quantised checkpoint: the input up to its first NUL is config.json, the rest model.safetensors. Every
// matrix that is found is read in both ways that packing reads it.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"
#include "io/quantized_tensors.h"
#include "io_fuzz_file.h"

namespace polylora {
namespace {

void read_all_rows(const QuantizedMatrix& matrix) {
  constexpr int64_t kMostValues = int64_t{1}
                                  << 20;  // an index may name the same column group again and again
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  CodeBlock block;
  const int64_t rows = std::min(matrix.rows, kMostValues / std::max<int64_t>(1, matrix.cols));
  for (int64_t r = 0; r < rows; ++r) {
    matrix.stored->read_row(r, row.data());
    if (matrix.stored->code_format().group != 32) continue;
    for (int64_t begin = 0; begin + 32 <= matrix.cols; begin += 32)
      matrix.stored->read_codes(r, begin, 32, block);
  }
}

void read_checkpoint(const std::filesystem::path& config_path, const std::filesystem::path& tensors_path) {
  const nlohmann::json config = parse_json(read_text_file(config_path), "config.json");
  const SafetensorsFile file(tensors_path);
  TensorsByName tensors;
  for (const auto& [name, view] : file.tensors()) tensors.emplace(name, &view);
  for (const auto& [name, matrix] : find_quantized_matrices(config, tensors, "config.json"))
    read_all_rows(matrix);
}

}  // namespace
}  // namespace polylora

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  const uint8_t* split = std::find(data, data + size, 0);
  const uint8_t* tensors_begin = std::min(split + 1, data + size);
  const FuzzFile config(data, static_cast<size_t>(split - data));
  const FuzzFile tensors(tensors_begin, static_cast<size_t>(data + size - tensors_begin));
  try {
    read_checkpoint(config.path(), tensors.path());
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) __builtin_trap();
  }
  return 0;
}
