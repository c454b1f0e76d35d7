// PEFT's merge_and_unload is the reference: every changed tensor of golden/merge, in every dtype it has.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "io/file_builders.h"
#include "io/safetensors.h"
#include "tune/merge/export.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing_files::TempFolder;

/// In the repository what the core needs; the rest lies beside the checkout, where it does.
fs::path golden(const fs::path& name) {
  const fs::path data = POLYLORA_TEST_DATA;
  for (const fs::path& root : {data, data / "merge"}) {  // merge/adapters: those that are not served yet
    if (fs::exists(root / name)) return root / name;
  }
  return data / "../../../shared/golden" / name;
}

struct Case {
  std::string file, model, adapter, dtype;
};

std::vector<Case> cases() {
  const fs::path index = golden("merge/index.json");
  if (!fs::exists(index)) return {};
  std::vector<Case> found;
  const json parsed = json::parse(read_text_file(index));
  for (const json& item : parsed["cases"]) {
    if (item["safe_merge"].get<bool>()) continue;  // another rounding than the default, and not ours
    found.push_back({item["file"], item["model"], item["adapter"], item["base_dtype_loaded_as"]});
  }
  return found;
}

std::vector<float> values_of(const TensorView& view) {
  const auto count = static_cast<int64_t>(view.data.size()) / dtype_block_bytes(view.dtype);
  std::vector<float> values(static_cast<size_t>(count));
  dequantize_row(view.dtype, view.data.data(), count, values.data());
  return values;
}

struct Difference {
  double share = 0;  // of the elements that differ
  float worst = 0;   // absolute; bf16: in units of the last place
};

int64_t ordered(uint32_t bits) {
  return (bits & 0x80000000u) != 0 ? -static_cast<int64_t>(bits & 0x7fffffffu) : static_cast<int64_t>(bits);
}

Difference compare(const TensorView& got, const TensorView& want) {
  const std::vector<float> a = values_of(got), b = values_of(want);
  Difference difference;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    difference.share += 1.0 / static_cast<double>(a.size());
    const auto steps =
        std::abs(ordered(std::bit_cast<uint32_t>(a[i])) - ordered(std::bit_cast<uint32_t>(b[i])));
    const float distance =
        want.dtype == DType::kBf16 ? static_cast<float>(steps >> 16) : std::fabs(a[i] - b[i]);
    difference.worst = std::max(difference.worst, distance);
  }
  return difference;
}

class MergeGolden : public testing::TestWithParam<Case> {};

TEST_P(MergeGolden, EqualsPeft) {
  const Case& c = GetParam();
  if (!fs::exists(golden("merge/" + c.file)) ||
      !fs::exists(golden("adapters/" + c.model + "/" + c.adapter)) ||
      !fs::exists(golden("models/" + c.model)))
    GTEST_SKIP() << c.file << " or its model or adapter is absent";
  TempFolder out;
  ExportConfig config;
  config.model_name_or_path = golden("models/" + c.model).string();
  config.adapter_name_or_path = {golden("adapters/" + c.model + "/" + c.adapter).string()};
  config.export_dir = out.path();
  config.infer_dtype = c.dtype;
  const ExportReport report = export_model(config);

  const SafetensorsFile got(out.path() / "model.safetensors"), want(golden("merge/" + c.file));
  EXPECT_EQ(report.merged, want.tensors().size());
  for (const auto& [name, tensor] : want.tensors()) {
    ASSERT_TRUE(got.tensors().contains(name)) << name;
    const TensorView& ours = got.tensors().at(name);
    ASSERT_EQ(ours.shape, tensor.shape) << name;
    ASSERT_EQ(ours.dtype, tensor.dtype) << name;
    const Difference difference = compare(ours, tensor);
    if (c.adapter.starts_with("dora")) {  // the norm's order of summation is torch's own
      EXPECT_LE(difference.worst, tensor.dtype == DType::kBf16 ? 2.0f : 1e-5f) << name;
    } else {
      EXPECT_EQ(difference.share, 0.0) << name << " differs by up to " << difference.worst;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, MergeGolden, testing::ValuesIn(cases()), [](const auto& param) {
  std::string name = param.param.file.substr(0, param.param.file.find('.'));
  return name;
});
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(MergeGolden);

}  // namespace
}  // namespace polylora
