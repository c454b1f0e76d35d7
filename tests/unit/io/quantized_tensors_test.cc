// What tests/blackbox/test_quantised_bases.py cannot show: refusals, and that damaged tensors never crash.
#include "io/quantized_tensors.h"

#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::json;

/// Tensors of zeros that own their bytes.
class Tensors {
 public:
  Tensors& add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    size_t bytes = static_cast<size_t>(dtype_block_bytes(dtype));
    for (const int64_t extent : shape) bytes *= static_cast<size_t>(extent);
    bytes_[name].assign(bytes, std::byte{0});
    views_[name] = {dtype, std::move(shape), {}};
    return *this;
  }
  Tensors& set_i32(const std::string& name, int64_t index, int32_t value) {
    std::memcpy(bytes_.at(name).data() + 4 * index, &value, 4);
    return *this;
  }
  /// Good while this lives.
  std::map<std::string, QuantizedMatrix> find(const json& settings) const {
    TensorsByName names;
    std::map<std::string, TensorView> views = views_;
    for (auto& [name, view] : views) {
      view.data = bytes_.at(name);
      names.emplace(name, &view);
    }
    return find_quantized_matrices({{"quantization_config", settings}}, names, "config.json");
  }
  void expect_refused(const json& settings, const std::string& part,
                      ErrorCode code = ErrorCode::kDataCorrupt) const {
    expect_error(code, {"config.json", part}, [&] { find(settings); });
  }

 private:
  std::map<std::string, std::vector<std::byte>> bytes_;
  std::map<std::string, TensorView> views_;
};

const json kGptq = {{"quant_method", "gptq"}, {"bits", 4}};
const json kAwq = {{"quant_method", "awq"}, {"bits", 4}};
const json kCompressed = {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}};

/// [N = 16, K = 64] in groups of 32.
Tensors gptq() {
  return Tensors()
      .add("m.qweight", DType::kI32, {8, 16})
      .add("m.qzeros", DType::kI32, {2, 2})
      .add("m.scales", DType::kF16, {2, 16});
}

TEST(QuantizedTensors, ShapesGiveTheMatrix) {
  const Tensors tensors = gptq();
  const auto found = tensors.find(kGptq);
  ASSERT_EQ(found.size(), 1u);
  const QuantizedMatrix& matrix = found.at("m.weight");
  EXPECT_EQ(matrix.rows, 16);
  EXPECT_EQ(matrix.cols, 64);
  EXPECT_EQ(matrix.stored->format_name(), "GPTQ int4");
  const CodeFormat codes = matrix.stored->code_format();
  EXPECT_EQ(codes.bits, 4);
  EXPECT_EQ(codes.group, 32);
  EXPECT_TRUE(codes.has_min);  // zeros stored as 0 mean 1, not the middle
}

TEST(QuantizedTensors, APlainCheckpointHasNone) {
  EXPECT_TRUE(find_quantized_matrices(json::object(), {}, "config.json").empty());
  EXPECT_TRUE(find_quantized_matrices({{"quantization_config", nullptr}}, {}, "config.json").empty());
}

TEST(QuantizedTensors, RefusesByNameWhatItCannotRead) {
  const auto refuse = [](const json& settings, const std::string& part) {
    gptq().expect_refused(settings, part, ErrorCode::kUnsupported);
  };
  refuse({{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}}, "'bitsandbytes' is not supported");
  refuse({{"quant_method", 7}}, "'?' is not supported");
  refuse("gptq", "'?' is not supported");
  refuse({{"quant_method", "gptq"}, {"bits", 5}}, "GPTQ of 5 bits");
  refuse({{"quant_method", "gptq"}, {"bits", 4}, {"checkpoint_format", "marlin"}}, "'marlin'");
  refuse({{"quant_method", "awq"}, {"version", "gemv"}}, "'gemv'");
  refuse({{"quant_method", "compressed-tensors"}, {"format", "nvfp4-pack-quantized"}},
         "'nvfp4-pack-quantized'");
  refuse({{"quant_method", "compressed-tensors"}, {"sparsity_config", {{"format", "sparse-24-bitmask"}}}},
         "sparsity");
}

TEST(QuantizedTensors, RefusesShapesThatDoNotFitTogether) {
  gptq().add("m.qweight", DType::kI32, {8, 15}).expect_refused(kGptq, "m.qweight has shape [8, 15]");
  gptq().add("m.qweight", DType::kI32, {8}).expect_refused(kGptq, "m.qweight");
  gptq().add("m.qweight", DType::kI8, {8, 16}).expect_refused(kGptq, "m.qweight is stored as I8");
  gptq().add("m.qzeros", DType::kI32, {2, 1}).expect_refused(kGptq, "m.qzeros");
  gptq().add("m.qzeros", DType::kI32, {3, 2}).expect_refused(kGptq, "m.qzeros");
  gptq().add("m.scales", DType::kF16, {0, 16}).expect_refused(kGptq, "m.scales");
  gptq().add("m.g_idx", DType::kI32, {63}).expect_refused(kGptq, "m.g_idx");
  gptq().add("m.g_idx", DType::kI32, {64}).set_i32("m.g_idx", 9, 2).expect_refused(kGptq, "the group 2 of 2");
  gptq().add("m.g_idx", DType::kI32, {64}).set_i32("m.g_idx", 9, -1).expect_refused(kGptq, "the group -1");
  Tensors().add("m.qweight", DType::kI32, {8, 16}).expect_refused(kGptq, "m.qzeros is missing");
  gptq().expect_refused(kAwq, "m.qweight");
}

TEST(QuantizedTensors, RefusesPackedShapesThatDoNotFitTogether) {
  const auto packed = [] {
    return Tensors()
        .add("m.weight_packed", DType::kI32, {16, 8})
        .add("m.weight_scale", DType::kBf16, {16, 2})
        .add("m.weight_shape", DType::kI32, {2})
        .set_i32("m.weight_shape", 0, 16)
        .set_i32("m.weight_shape", 1, 64);
  };
  EXPECT_EQ(packed().find(kCompressed).at("m.weight").cols, 64);
  packed().set_i32("m.weight_shape", 1, 0).expect_refused(kCompressed, "m.weight_packed");
  packed().set_i32("m.weight_shape", 1, -64).expect_refused(kCompressed, "m.weight_packed");
  packed().set_i32("m.weight_shape", 1, 48).expect_refused(kCompressed, "8 words for 48 columns");
  packed().add("m.weight_scale", DType::kBf16, {16, 3}).expect_refused(kCompressed, "m.weight_scale");
  packed().add("m.weight_scale", DType::kBf16, {15, 2}).expect_refused(kCompressed, "m.weight_scale");
  packed().add("m.weight_zero_point", DType::kI32, {1, 2}).expect_refused(kCompressed, "m.weight_zero_point");
  packed().add("m.weight_zero_point", DType::kI8, {16, 1}).expect_refused(kCompressed, "m.weight_zero_point");
}

TEST(QuantizedTensors, AnFp8BlockGridMustCoverTheMatrix) {
  const json blocks = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  const auto weight = [](std::vector<int64_t> grid) {
    return Tensors().add("m.weight", DType::kF8E4m3, {192, 256}).add("m.weight_scale_inv", DType::kF32, grid);
  };
  EXPECT_EQ(weight({2, 2}).find(blocks).at("m.weight").stored->format_name(), "FP8");
  weight({1, 2}).expect_refused(blocks, "m.weight_scale_inv has shape [1, 2]");
  Tensors().add("m.weight", DType::kF8E4m3, {192, 256}).expect_refused(blocks, "m.weight_scale is missing");
}

}  // namespace
}  // namespace polylora
