#include "tune/merge/merge.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "io/adapter_keys.h"

namespace polylora {
namespace {

constexpr std::string_view kLmHead = "lm_head.weight";

void expect_shape(const TensorView& tensor, const std::vector<int64_t>& shape, const std::string& where) {
  if (tensor.shape == shape) return;
  fail(ErrorCode::kDataCorrupt, "{} has shape [{}], which does not fit this base model: it wants [{}]", where,
       fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
}

[[noreturn]] void fail_unmatched(const std::string& where, const std::string& tensor,
                                 const BaseTensors& base) {
  fail(ErrorCode::kUnsupported,
       "{} matches nothing in the base model {}, which has no tensor {}; was the adapter trained on another "
       "base?",
       where, base.path().string(), tensor);
}

/// The tensor that an adapter names; of a tied model lm_head is the embedding.
const BaseTensor& find_target(const BaseTensors& base, const std::string& name, const std::string& where) {
  const BaseTensor* found = base.find(name);
  if (found == nullptr && name == kLmHead && base.is_tied()) found = input_embedding(base);
  if (found == nullptr) fail_unmatched(where, name, base);
  return *found;
}

/// The module's path in this base, which may be the text model alone of what the adapter was trained on.
std::string base_path(const BaseTensors& base, const std::string& path) {
  const std::string text = text_module_path(path);
  return base.find(path + ".weight") == nullptr && base.find(text + ".weight") != nullptr ? text : path;
}

/// Checks A, B and the magnitude against the weight and says how they change it.
TensorEdit low_rank_edit(const PeftModule& module, const BaseTensor& weight, bool transposed,
                         const std::string& where) {
  if (weight.shape.size() != 2)
    fail(ErrorCode::kUnsupported, "{}: LoRA on a weight of {} dimensions is not supported", where,
         weight.shape.size());
  const int64_t out = weight.shape[transposed ? 1 : 0], in = weight.shape[transposed ? 0 : 1];
  expect_shape(*module.a, {module.rank, in}, where + ".lora_A");
  expect_shape(*module.b, {out, module.rank}, where + ".lora_B");
  if (module.magnitude != nullptr) {
    if (transposed) fail(ErrorCode::kUnsupported, "{}: DoRA on a transposed weight is not supported", where);
    if (module.magnitude->data.size() !=
        static_cast<size_t>(out * dtype_block_bytes(module.magnitude->dtype)))
      expect_shape(*module.magnitude, {out}, where + ".lora_magnitude_vector");
  }
  TensorEdit edit{.a = module.a,
                  .b = module.b,
                  .magnitude = module.magnitude,
                  .scale = module.scale,
                  .transposed = transposed};
  if (transposed) std::swap(edit.a, edit.b);
  return edit;
}

/// A column of row-major values, or one value of a vector.
float element(const TensorView& tensor, int64_t index) {
  float value = 0.0f;
  dequantize_row(tensor.dtype, tensor.data.data() + index * dtype_block_bytes(tensor.dtype), 1, &value);
  return value;
}

void read_row(const TensorView& tensor, int64_t row, int64_t cols, float* out) {
  const size_t bytes = dtype_row_bytes(tensor.dtype, cols);
  dequantize_row(tensor.dtype, tensor.data.data() + static_cast<size_t>(row) * bytes, cols, out);
}

}  // namespace

const BaseTensor* input_embedding(const BaseTensors& base) {
  for (const BaseTensor& tensor : base.tensors()) {
    for (const std::string_view name : {"embed_tokens.weight", "wte.weight", "embed_in.weight"}) {
      if (tensor.name == name || tensor.name.ends_with("." + std::string(name))) return &tensor;
    }
  }
  return nullptr;
}

MergePlan::MergePlan(const BaseTensors& base, std::span<const PeftAdapter> adapters) {
  for (const PeftAdapter& adapter : adapters) {
    for (const auto& [path, module] : adapter.modules())
      add_module(base, adapter, base_path(base, path), module);
  }
  decide_tying(base, adapters);
}

void MergePlan::add_module(const BaseTensors& base, const PeftAdapter& adapter, const std::string& path,
                           const PeftModule& module) {
  const std::string where = adapter.path().string() + ": " + path;
  if (module.a != nullptr || module.new_weight != nullptr) {
    const BaseTensor& weight = find_target(base, path + ".weight", where);
    TensorEdit edit;
    if (module.a != nullptr) {
      const bool transposed = module.is_embedding || adapter.config().fan_in_fan_out;
      edit = low_rank_edit(module, weight, transposed, where);
    }
    if (module.new_weight != nullptr) expect_shape(*module.new_weight, weight.shape, where + ".weight");
    edit.replacement = module.new_weight;
    edits_[path + ".weight"].push_back(edit);
  }
  if (module.b_bias == nullptr && module.new_bias == nullptr) return;
  const BaseTensor& bias = find_target(base, path + ".bias", where);
  for (const TensorView* vector : {module.b_bias, module.new_bias}) {
    if (vector != nullptr) expect_shape(*vector, bias.shape, where + ".bias");
  }
  edits_[path + ".bias"].push_back(
      {.replacement = module.new_bias, .addend = module.b_bias, .scale = module.scale});
}

void MergePlan::decide_tying(const BaseTensors& base, std::span<const PeftAdapter> adapters) {
  const BaseTensor* embedding = base.is_tied() ? input_embedding(base) : nullptr;
  if (embedding == nullptr) return;
  const bool head = edits_.contains(std::string(kLmHead));
  const bool keep = std::all_of(adapters.begin(), adapters.end(), [](const PeftAdapter& adapter) {
    return adapter.config().ensure_weight_tying;
  });
  unties_ = head || (edits_.contains(embedding->name) && !keep);
}

std::span<const TensorEdit> MergePlan::edits(const std::string& tensor) const {
  const auto found = edits_.find(tensor);
  if (found == edits_.end()) return {};
  return found->second;
}

void RowMerger::merge(const BaseTensor& tensor, std::span<const TensorEdit> edits,
                      std::span<const int64_t> rows, Mat out) {
  for (size_t i = 0; i < rows.size(); ++i)
    dequantize_row(tensor.dtype, tensor.row(rows[i]), tensor.cols, out.row(static_cast<int64_t>(i)));
  for (const TensorEdit& edit : edits) {
    if (&edit != edits.data() || tensor.dtype != dtype_) round(out);
    apply(edit, rows, out);
  }
}

void RowMerger::apply(const TensorEdit& edit, std::span<const int64_t> rows, Mat w) {
  if (edit.replacement != nullptr) {
    for (int64_t i = 0; i < w.rows; ++i)
      read_row(*edit.replacement, rows[static_cast<size_t>(i)], w.cols, w.row(i));
    round(w);
  }
  if (edit.a != nullptr) add_product(edit, rows, w);
  if (edit.magnitude != nullptr) apply_magnitude(edit, rows, w);
  if (edit.addend != nullptr) {  // a bias: one row
    for (int64_t k = 0; k < w.cols; ++k) w.row(0)[k] += element(*edit.addend, k) * edit.scale;
  }
}

void RowMerger::add_product(const TensorEdit& edit, std::span<const int64_t> rows, Mat w) {
  const int64_t rank = edit.a->shape[edit.transposed ? 1 : 0];
  if (held_ != edit.a) {
    a_.resize(static_cast<size_t>(rank * w.cols));
    for (int64_t r = 0; r < rank; ++r) {
      float* row = a_.data() + r * w.cols;
      if (!edit.transposed) read_row(*edit.a, r, w.cols, row);
      for (int64_t k = 0; edit.transposed && k < w.cols; ++k) row[k] = element(*edit.a, k * rank + r);
    }
    held_ = edit.a;
  }
  b_.resize(static_cast<size_t>(rank * w.rows));
  const int64_t all_rows = edit.b->shape[edit.transposed ? 1 : 0];
  for (int64_t i = 0; i < w.rows; ++i) {
    const int64_t n = rows[static_cast<size_t>(i)];
    if (!edit.transposed) read_row(*edit.b, n, rank, b_.data() + i * rank);
    for (int64_t r = 0; edit.transposed && r < rank; ++r)
      b_[static_cast<size_t>(i * rank + r)] = element(*edit.b, r * all_rows + n);
  }
  backend_.lora_merge(w, ConstMat(a_.data(), rank, w.cols), ConstMat(b_.data(), w.rows, rank), edit.scale);
}

void RowMerger::apply_magnitude(const TensorEdit& edit, std::span<const int64_t> rows, Mat w) {
  for (int64_t i = 0; i < w.rows; ++i) {
    float* row = w.row(i);
    double squares = 0.0;
    for (int64_t k = 0; k < w.cols; ++k) squares += double{row[k]} * double{row[k]};
    if (squares == 0.0) continue;  // no direction to scale
    const float factor =
        element(*edit.magnitude, rows[static_cast<size_t>(i)]) / static_cast<float>(std::sqrt(squares));
    for (int64_t k = 0; k < w.cols; ++k) row[k] *= factor;
  }
}

void RowMerger::round(Mat w) const {
  if (dtype_ == DType::kF32) return;
  for (int64_t i = 0; i < w.rows; ++i) {
    float* row = w.row(i);
    for (int64_t k = 0; k < w.cols; ++k) {
      row[k] = dtype_ == DType::kBf16 ? bf16_to_f32(f32_to_bf16(row[k])) : f16_to_f32(f32_to_f16(row[k]));
    }
  }
}

}  // namespace polylora
