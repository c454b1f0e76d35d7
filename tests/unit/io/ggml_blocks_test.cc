// GGUF's block formats against tests/data/quant/ggml_blocks.safetensors: random blocks, and their values as
// the reference (the PyPI package `gguf`, gguf.quants) reads them.
#include <algorithm>
#include <cmath>

#include "base/codes.h"
#include "io/file_builders.h"
#include "ops/backend.h"
#include "ops/quant.h"

namespace polylora {
namespace {

constexpr int64_t kValues = 512;

class GgmlBlocks : public testing::TestWithParam<DType> {
 protected:
  const std::byte* blocks() const { return tensor(".blocks").data.data(); }
  const float* values() const { return reinterpret_cast<const float*>(tensor(".values").data.data()); }
  /// Two rows of 256.
  WeightSource source() const {
    WeightSource source{.cols = kValues / 2, .rows = {}};
    source.rows.push_back({blocks(), GetParam()});
    source.rows.push_back({blocks() + dtype_row_bytes(GetParam(), kValues / 2), GetParam()});
    return source;
  }
  float largest() const {
    return std::fabs(*std::max_element(values(), values() + kValues,
                                       [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
  }

 private:
  const TensorView& tensor(const std::string& part) const {
    return file_.tensors().at(std::string(dtype_name(GetParam())) + part);
  }
  SafetensorsFile file_{std::filesystem::path(POLYLORA_TEST_DATA) / "quant" / "ggml_blocks.safetensors"};
};

TEST_P(GgmlBlocks, AreReadAsTheReferenceReadsThem) {
  std::vector<float> read(kValues);
  dequantize_row(GetParam(), blocks(), kValues, read.data());
  for (int64_t i = 0; i < kValues; ++i) EXPECT_NEAR(read[i], values()[i], 1e-6f * largest()) << i;
}

/// Packed in the nearest format; what a row then stands for differs by the rounding of scales to f16 where
/// the codes are kept, else by half a step of the format.
TEST_P(GgmlBlocks, KeepTheirValuesInTheNearestFormat) {
  const WeightSource rows = source();
  const WeightFormat format = native_format(rows);
  const CodeFormat codes = code_format(GetParam());
  const bool kept = codes.group == kQuantGroup;
  const float step = format == WeightFormat::kQ8 ? 1.0f / 254 : 1.0f / 15;
  const float tolerance = largest() * (kept ? 0x1p-10f : step + 0x1p-10f);
  for (const char* name : {"ref", "cpu"}) {
    const auto backend = make_backend({.name = name, .threads = 1});
    const auto weight = backend->pack_weight(rows, format);
    std::vector<float> read(kValues);
    const int32_t ids[] = {0, 1};
    backend->embed(Mat(read.data(), 2, kValues / 2), *weight, ids);
    for (int64_t i = 0; i < kValues; ++i) EXPECT_NEAR(read[i], values()[i], tolerance) << name << " " << i;
  }
}

TEST_P(GgmlBlocks, PickAFormatOfAboutTheirWidth) {
  const bool narrow = code_format(GetParam()).bits <= 4;
  EXPECT_EQ(native_format(source()), narrow ? WeightFormat::kQ4 : WeightFormat::kQ8);
}

INSTANTIATE_TEST_SUITE_P(Formats, GgmlBlocks,
                         testing::Values(DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                         DType::kQ2K, DType::kQ3K, DType::kQ4K, DType::kQ5K, DType::kQ6K,
                                         DType::kIq4Nl, DType::kIq4Xs),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

/// All finite bit patterns of E4M3 ascend with their bits.
TEST(F8E4m3, GoesFromZeroTo448) {
  float values[128];
  uint8_t bits[128];
  for (int i = 0; i < 128; ++i) bits[i] = static_cast<uint8_t>(i);
  dequantize_row(DType::kF8E4m3, bits, 128, values);
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_EQ(values[1], 0x1p-9f);
  EXPECT_EQ(values[8], 0x1p-6f);
  EXPECT_EQ(values[0x38], 1.0f);
  EXPECT_EQ(values[0x7e], 448.0f);
  EXPECT_TRUE(std::isnan(values[0x7f]));
  EXPECT_TRUE(std::is_sorted(values, values + 127));
}

}  // namespace
}  // namespace polylora
