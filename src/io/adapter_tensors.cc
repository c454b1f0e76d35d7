#include "io/adapter_tensors.h"

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {

namespace fs = std::filesystem;

std::optional<fs::path> find_adapter_weights(const fs::path& folder) {
  const fs::path path = folder / "adapter_model.safetensors";
  if (path_exists(path)) return path;
  if (path_exists(folder / "adapter_model.bin")) {
    fail(ErrorCode::kUnsupported,
         "{}: adapter_model.bin is pickled and not read; convert it to adapter_model.safetensors",
         folder.string());
  }
  return std::nullopt;
}

void check_adapter_dtype(const TensorView& tensor, const std::string& where) {
  if (tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBf16) return;
  fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported in adapters; use F32, F16 or BF16", where,
       dtype_name(tensor.dtype));
}

void check_finite(const TensorView& tensor, const std::string& where) {
  const auto bytes_each = static_cast<size_t>(dtype_block_bytes(tensor.dtype));
  const auto count = static_cast<int64_t>(tensor.data.size() / bytes_each);
  if (!all_finite(tensor.dtype, tensor.data.data(), count))
    fail(ErrorCode::kDataCorrupt, "{} holds NaN or infinity", where);
}

}  // namespace polylora
