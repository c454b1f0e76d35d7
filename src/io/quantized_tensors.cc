#include "io/quantized_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "io/packed_matrix.h"

namespace polylora {
namespace {

using nlohmann::json;
using Shape = std::vector<int64_t>;

template <typename T>
T element(const TensorView& tensor, int64_t index) {
  T value;
  std::memcpy(&value, tensor.data.data() + index * static_cast<int64_t>(sizeof value), sizeof value);
  return value;
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// The tensors of one linear module, and how to complain about them.
class ModuleTensors {
 public:
  ModuleTensors(const TensorsByName& tensors, std::string module, const std::string& where)
      : tensors_(tensors), module_(std::move(module)), where_(where) {}

  const TensorView* find(const char* name) const {
    const auto found = tensors_.find(module_ + "." + name);
    return found == tensors_.end() ? nullptr : found->second;
  }

  /// Throws unless it is there with one of these dtypes and a non-empty shape of `rank` dimensions.
  const TensorView& get(const char* name, std::initializer_list<DType> dtypes, size_t rank) const {
    const TensorView* tensor = find(name);
    if (tensor == nullptr) corrupt(name, "is missing");
    if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end())
      corrupt(name, fmt::format("is stored as {}", dtype_name(tensor->dtype)));
    if (tensor->shape.size() != rank || tensor->data.empty()) bad_shape(name);
    return *tensor;
  }

  [[noreturn]] void bad_shape(const char* name) const {
    corrupt(name, fmt::format("has shape [{}], which does not fit the tensors beside it",
                              fmt::join(find(name)->shape, ", ")));
  }
  [[noreturn]] void corrupt(const char* name, std::string_view what) const {
    fail(ErrorCode::kDataCorrupt, "{}: quantised tensor {}.{} {}", where_, module_, name, what);
  }

 private:
  const TensorsByName& tensors_;
  std::string module_;
  const std::string& where_;
};

constexpr auto kFloats = {DType::kF32, DType::kF16, DType::kBf16};

/// Columns that share a scale; the groups divide the columns evenly.
int64_t group_size(const ModuleTensors& module, const char* scales, int64_t cols, int64_t groups) {
  if (groups == 0 || cols % groups != 0) module.bad_shape(scales);
  return cols / groups;
}

/// A tensor that says for every column which group it is in. Empty when that is their order anyway.
std::vector<int32_t> read_column_groups(const ModuleTensors& module, const char* name, int64_t group,
                                        int64_t cols, int64_t groups) {
  if (module.find(name) == nullptr) return {};
  const TensorView& tensor = module.get(name, {DType::kI32}, 1);
  if (tensor.shape[0] != cols) module.bad_shape(name);
  std::vector<int32_t> column_groups(static_cast<size_t>(cols));
  std::memcpy(column_groups.data(), tensor.data.data(), tensor.data.size());
  bool in_order = true;
  for (int64_t k = 0; k < cols; ++k) {
    const int32_t g = column_groups[static_cast<size_t>(k)];
    if (g < 0 || g >= groups) module.corrupt(name, fmt::format("names the group {} of {}", g, groups));
    in_order = in_order && g == k / group;
  }
  if (in_order) column_groups.clear();
  return column_groups;
}

/// qweight, qzeros and scales have the inputs first: [K, N], [groups, N] before packing.
struct InputFirst {
  const TensorView& qweight;
  const TensorView& qzeros;
  const TensorView& scales;

  explicit InputFirst(const ModuleTensors& module)
      : qweight(module.get("qweight", {DType::kI32}, 2)),
        qzeros(module.get("qzeros", {DType::kI32}, 2)),
        scales(module.get("scales", kFloats, 2)) {
    if (qzeros.shape[0] != scales.shape[0]) module.bad_shape("qzeros");
  }
  int64_t outputs() const { return scales.shape[1]; }
  int64_t groups() const { return scales.shape[0]; }

  /// What GPTQ and AWQ have in common.
  IntegerLayout layout(std::string name, int64_t cols, int bits) const {
    IntegerLayout layout{.name = std::move(name), .rows = outputs(), .cols = cols, .groups = groups()};
    layout.scales = {
        .data = scales.data.data(), .dtype = scales.dtype, .row_stride = 1, .group_stride = outputs()};
    layout.zeros = PackedInts{
        .data = qzeros.data.data(), .bits = bits, .along_rows = true, .other_stride = 4 * qzeros.shape[1]};
    return layout;
  }
};

QuantizedMatrix finish(IntegerLayout layout) {
  const int64_t rows = layout.rows, cols = layout.cols;
  return {rows, cols, make_integer_matrix(std::move(layout))};
}

QuantizedMatrix read_gptq(const ModuleTensors& module, const json& config, const std::string& where) {
  const InputFirst stored(module);
  const int64_t words = stored.qweight.shape[0];
  const TensorView* g_idx = module.find("g_idx");
  const json said = config.value("bits", json());
  if (g_idx == nullptr && !said.is_number_integer())
    fail(ErrorCode::kDataCorrupt, "{}: quantization_config has no 'bits'", where);
  int64_t bits = g_idx == nullptr ? said.get<int64_t>() : 0;
  if (g_idx != nullptr && g_idx->shape.size() == 1 && g_idx->shape[0] > 0)
    bits = 32 * words / g_idx->shape[0];
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
    fail(ErrorCode::kUnsupported, "{}: GPTQ of {} bits is not supported; known: 2, 3, 4, 8", where, bits);
  const int64_t cols = 32 * words / bits;
  if (cols * bits != 32 * words || stored.qweight.shape[1] != stored.outputs()) module.bad_shape("qweight");
  if (32 * stored.qzeros.shape[1] < bits * stored.outputs()) module.bad_shape("qzeros");

  IntegerLayout layout = stored.layout(fmt::format("GPTQ int{}", bits), cols, static_cast<int>(bits));
  layout.group = group_size(module, "scales", cols, stored.groups());
  layout.column_groups = read_column_groups(module, "g_idx", layout.group, cols, stored.groups());
  layout.codes = {.data = stored.qweight.data.data(),
                  .bits = static_cast<int>(bits),
                  .packed_stride = 4 * stored.outputs(),
                  .other_stride = 4};
  // The first format of GPTQ stores zero - 1.
  layout.zero_offset = config.value("checkpoint_format", json()) == "gptq_v2" ? 0 : 1;
  return finish(std::move(layout));
}

QuantizedMatrix read_awq(const ModuleTensors& module) {
  constexpr int kBits = 4;
  const InputFirst stored(module);
  const int64_t cols = stored.qweight.shape[0], words = stored.qweight.shape[1];
  if (words * 8 != stored.outputs()) module.bad_shape("qweight");
  if (stored.qzeros.shape[1] != words) module.bad_shape("qzeros");
  IntegerLayout layout = stored.layout("AWQ int4", cols, kBits);
  layout.group = group_size(module, "scales", cols, stored.groups());
  layout.codes = {.data = stored.qweight.data.data(),
                  .bits = kBits,
                  .along_rows = true,
                  .other_stride = 4 * words,
                  .is_interleaved = true};
  layout.zeros->is_interleaved = true;
  return finish(std::move(layout));
}

/// Scales of a matrix with outputs first: one, one per row, or one per row and group.
ScaleGrid row_scales(const ModuleTensors& module, int64_t rows, int64_t& groups) {
  const TensorView* found = module.find("weight_scale");
  const TensorView& scales = module.get("weight_scale", kFloats, found == nullptr ? 1 : found->shape.size());
  ScaleGrid grid{.data = scales.data.data(), .dtype = scales.dtype};
  const Shape& shape = scales.shape;
  const auto count = static_cast<int64_t>(scales.data.size()) / dtype_block_bytes(scales.dtype);
  groups = 1;
  if (count == 1) return grid;
  if (shape[0] != rows || shape.size() > 2) module.bad_shape("weight_scale");
  groups = count / rows;
  grid.row_stride = groups;
  grid.group_stride = 1;
  return grid;
}

/// compressed-tensors' zero points: packed along the outputs like the codes, or signed bytes.
PackedInts read_zero_points(const ModuleTensors& module, int64_t rows, int64_t groups, int bits) {
  const TensorView& zeros = module.get("weight_zero_point", {DType::kI32, DType::kI8}, 2);
  if (zeros.shape[1] != groups) module.bad_shape("weight_zero_point");
  const bool packed = zeros.dtype == DType::kI32;
  if (zeros.shape[0] != (packed ? ceil_div(rows * bits, 32) : rows)) module.bad_shape("weight_zero_point");
  if (packed)
    return {.data = zeros.data.data(),
            .bits = bits,
            .along_rows = true,
            .packed_stride = 4 * groups,
            .other_stride = 4};
  return {.data = zeros.data.data(),
          .bits = 8,
          .unit_bits = 8,
          .along_rows = true,
          .packed_stride = groups,
          .other_stride = 1};
}

/// Scales, zero points and column groups of integer codes with outputs first.
QuantizedMatrix read_output_first(const ModuleTensors& module, IntegerLayout layout) {
  layout.scales = row_scales(module, layout.rows, layout.groups);
  layout.group = group_size(module, "weight_scale", layout.cols, layout.groups);
  layout.column_groups = read_column_groups(module, "weight_g_idx", layout.group, layout.cols, layout.groups);
  if (const TensorView* zeros = module.find("weight_zero_point")) {
    layout.zeros = read_zero_points(module, layout.rows, layout.groups, layout.codes.bits);
    if (zeros->dtype == DType::kI8) layout.zero_offset = 1 << (layout.codes.bits - 1);
  }
  return finish(std::move(layout));
}

QuantizedMatrix read_pack_quantized(const ModuleTensors& module) {
  const TensorView& packed = module.get("weight_packed", {DType::kI32}, 2);
  const TensorView& shape = module.get("weight_shape", {DType::kI64, DType::kI32}, 1);
  if (shape.shape[0] != 2) module.bad_shape("weight_shape");
  const auto extent = [&](int64_t i) {
    return shape.dtype == DType::kI64 ? element<int64_t>(shape, i) : element<int32_t>(shape, i);
  };
  const int64_t rows = extent(0), cols = extent(1), words = packed.shape[1];
  if (rows != packed.shape[0] || cols <= 0) module.bad_shape("weight_packed");
  const int64_t bits = 32 * words / cols;
  if ((bits != 4 && bits != 8) || bits * cols != 32 * words)
    module.corrupt("weight_packed",
                   fmt::format("holds {} words for {} columns; known: 4 and 8 bits each", words, cols));
  return read_output_first(
      module,
      {.name = fmt::format("compressed-tensors int{}", bits),
       .rows = rows,
       .cols = cols,
       .codes = {.data = packed.data.data(), .bits = static_cast<int>(bits), .other_stride = 4 * words}});
}

QuantizedMatrix read_int8(const ModuleTensors& module) {
  const TensorView& weight = module.get("weight", {DType::kI8}, 2);
  const int64_t rows = weight.shape[0], cols = weight.shape[1];
  return read_output_first(module, {.name = "compressed-tensors int8",
                                    .rows = rows,
                                    .cols = cols,
                                    .codes = {.data = weight.data.data(),
                                              .bits = 8,
                                              .unit_bits = 8,
                                              .packed_stride = 1,
                                              .other_stride = cols,
                                              .flip = 0x80}});
}

/// Rows and columns of the blocks that share an FP8 scale, where config.json names them.
std::optional<std::array<int64_t, 2>> block_shape(const json& config) {
  json block = config.value("weight_block_size", json());
  if (const json groups = config.value("config_groups", json()); groups.is_object() && !groups.empty()) {
    const json& group = groups.front();
    if (group.is_object() && group.contains("weights") && group["weights"].is_object())
      block = group["weights"].value("block_structure", json());
  }
  if (!block.is_array() || block.size() != 2) return std::nullopt;
  std::array<int64_t, 2> shape{};
  for (size_t i = 0; i < 2; ++i) {
    if (!block[i].is_number_integer() || block[i].get<int64_t>() <= 0) return std::nullopt;
    shape[i] = block[i].get<int64_t>();
  }
  return shape;
}

QuantizedMatrix read_fp8(const ModuleTensors& module, const json& config) {
  const TensorView& weight = module.get("weight", {DType::kF8E4m3}, 2);
  const int64_t rows = weight.shape[0], cols = weight.shape[1];
  const char* name = module.find("weight_scale_inv") != nullptr ? "weight_scale_inv" : "weight_scale";
  const TensorView* found = module.find(name);
  const auto blocks = block_shape(config);
  if (found != nullptr && blocks && found->shape.size() == 2) {
    const auto [row_block, col_block] = *blocks;
    const TensorView& scales = module.get(name, kFloats, 2);
    if (scales.shape != Shape{ceil_div(rows, row_block), ceil_div(cols, col_block)}) module.bad_shape(name);
    const ScaleGrid grid{.data = scales.data.data(),
                         .dtype = scales.dtype,
                         .row_block = row_block,
                         .row_stride = scales.shape[1],
                         .group_stride = 1};
    return {rows, cols, make_fp8_matrix(weight, grid, col_block)};
  }
  int64_t groups = 1;
  const ScaleGrid grid = row_scales(module, rows, groups);
  return {rows, cols, make_fp8_matrix(weight, grid, group_size(module, "weight_scale", cols, groups))};
}

enum class Method { kGptq, kAwq, kCompressedTensors, kFp8 };

struct MethodName {
  std::string_view name;
  Method method;
};
constexpr MethodName kMethods[] = {{"gptq", Method::kGptq},
                                   {"awq", Method::kAwq},
                                   {"compressed-tensors", Method::kCompressedTensors},
                                   {"fp8", Method::kFp8},
                                   {"fbgemm_fp8", Method::kFp8}};

const json* quantization_config(const json& config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = config.find(key);
    if (found != config.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

Method parse_method(const std::string& name, const std::string& where) {
  std::string known;
  for (const MethodName& row : kMethods) {
    if (row.name == name) return row.method;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  fail(ErrorCode::kUnsupported,
       "{}: the quantisation '{}' is not supported; known: {}. Name the unquantised model instead: "
       "--quantization q4 or q8 (in training quantization_bit) quantises it while loading",
       where, name, known);
}

/// Layouts of a known method that the tensors' names do not tell apart from those that are read.
void refuse_other_layouts(Method method, const json& config, const std::string& where) {
  const auto refuse_unless = [&](const char* key, std::initializer_list<const char*> known) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_string()) return;
    std::string said = found->get<std::string>();
    for (char& c : said) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    for (const char* name : known) {
      if (said == name) return;
    }
    fail(ErrorCode::kUnsupported, "{}: quantization_config: {} '{}' is not supported; known: {}", where, key,
         found->get<std::string>(), fmt::join(known, ", "));
  };
  if (method == Method::kGptq) refuse_unless("checkpoint_format", {"gptq", "gptq_v2"});
  if (method == Method::kAwq) refuse_unless("version", {"gemm"});
  if (method != Method::kCompressedTensors) return;
  refuse_unless("format", {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
                           "mixed-precision", "dense"});
  const auto sparsity = config.find("sparsity_config");
  if (sparsity != config.end() && sparsity->is_object() && !sparsity->empty() &&
      sparsity->value("format", json("dense")) != "dense") {
    fail(ErrorCode::kUnsupported, "{}: compressed-tensors with sparsity is not supported", where);
  }
}

/// The module of a tensor name that ends in ".suffix"; empty for another.
std::string module_of(const std::string& tensor, std::string_view suffix) {
  if (!tensor.ends_with(suffix) || tensor.size() <= suffix.size() + 1) return {};
  const size_t dot = tensor.size() - suffix.size() - 1;
  return tensor[dot] == '.' ? tensor.substr(0, dot) : std::string();
}

}  // namespace

std::string quantization_method(const json& config) {
  const json* quantization = quantization_config(config);
  if (quantization == nullptr) return {};
  const json method = quantization->is_object() ? quantization->value("quant_method", json()) : json();
  return method.is_string() ? method.get<std::string>() : "?";
}

std::map<std::string, QuantizedMatrix> find_quantized_matrices(const json& config,
                                                               const TensorsByName& tensors,
                                                               const std::string& where) {
  std::map<std::string, QuantizedMatrix> matrices;
  const std::string name = quantization_method(config);
  if (name.empty()) return matrices;
  const Method method = parse_method(name, where);
  const json& settings = *quantization_config(config);
  refuse_other_layouts(method, settings, where);
  const bool input_first = method == Method::kGptq || method == Method::kAwq;
  for (const auto& [tensor, view] : tensors) {
    if (const std::string module = module_of(tensor, "qweight"); input_first && !module.empty()) {
      const ModuleTensors parts(tensors, module, where);
      matrices[module + ".weight"] =
          method == Method::kGptq ? read_gptq(parts, settings, where) : read_awq(parts);
    } else if (const std::string packed = module_of(tensor, "weight_packed"); !packed.empty()) {
      matrices[packed + ".weight"] = read_pack_quantized({tensors, packed, where});
    } else if (const std::string plain = module_of(tensor, "weight"); !plain.empty()) {
      const ModuleTensors parts(tensors, plain, where);
      if (view->dtype == DType::kI8) matrices[tensor] = read_int8(parts);
      if (view->dtype == DType::kF8E4m3) matrices[tensor] = read_fp8(parts, settings);
    }
  }
  return matrices;
}

}  // namespace polylora
