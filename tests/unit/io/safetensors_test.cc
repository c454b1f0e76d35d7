#include "io/safetensors.h"

#include <cstring>

#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;

class Safetensors : public testing::Test {
 protected:
  void expect_refused(const std::string& header, const std::string& part, size_t data_bytes = 64,
                      ErrorCode code = ErrorCode::kDataCorrupt) {
    const auto file =
        folder_.write("bad.safetensors", safetensors_bytes(header, std::string(data_bytes, 'x')));
    expect_error(code, {"bad.safetensors", part}, [&] { SafetensorsFile{file}; });
  }

  TempFolder folder_;
};

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
  TensorSet tensors;
  tensors.add("b", {2, 3}, {1, 2, 3, 4, 5, 6}).add("a", {1}, {-0.5f}).add("empty", {0, 4}, {});
  write_safetensors(folder_.path() / "x.safetensors", tensors.views(),
                    {{"format", "pt"}, {"made by", "äöü"}});

  const SafetensorsFile file(folder_.path() / "x.safetensors");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.metadata().at("made by"), "äöü");
  const TensorView& b = file.tensors().at("b");
  EXPECT_EQ(b.dtype, DType::kF32);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  float last = 0;
  std::memcpy(&last, b.data.data() + 20, sizeof last);
  EXPECT_EQ(last, 6.0f);
  EXPECT_TRUE(file.tensors().at("empty").data.empty());
}

TEST_F(Safetensors, WritingAlignsTheDataAndLeavesNoTemporary) {
  TensorSet tensors;
  tensors.add("a", {1}, {1});
  tensors.write(folder_.path() / "x.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, read_all(folder_.path() / "x.safetensors").data(), sizeof header);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(Safetensors, RefusesWhatIsNoSafetensorsFile) {
  for (const std::string& bytes : {std::string(), std::string("1234567"), std::string(100, '\xff'),
                                   safetensors_bytes("{}", "").substr(0, 9)}) {
    const auto file = folder_.write("bad.safetensors", bytes);
    expect_error(ErrorCode::kDataCorrupt, {"bad.safetensors"}, [&] { SafetensorsFile{file}; });
  }
  expect_error(ErrorCode::kNotFound, {"absent"}, [&] { SafetensorsFile{folder_.path() / "absent"}; });
  expect_refused("not json", "not valid JSON (at byte");
  expect_refused("[]", "not a JSON object");
  expect_refused(R"({"a":)" + std::string(5000, '[') + std::string(5000, ']') + "}", "nested deeper");
}

TEST_F(Safetensors, RefusesAnEntryThatIsMalformed) {
  expect_refused(R"({"a":1})", "'dtype' is missing");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1]}})", "'data_offsets' is missing");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", "[begin, end]");
  expect_refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "non-negative");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", "non-negative");
  expect_refused(R"({"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}})", "F8_E8M0", 64,
                 ErrorCode::kUnsupported);
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                     "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                 "a occurs twice");
}

TEST_F(Safetensors, RefusesOffsetsThatDoNotFit) {
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "tensor a");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}})", "tensor a");
  expect_refused(R"({"a":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}})", "cut short");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                     "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                 "a and b overlap");
}

TEST_F(Safetensors, RefusesShapesWhoseProductOverflows) {
  expect_refused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "tensor a");
  expect_refused(R"({"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}})", "tensor a");
  expect_refused(R"({"a":{"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]}})", "tensor a");
}

TEST_F(Safetensors, SurvivesMutations) {
  TensorSet tensors;
  tensors.add("layer.0", {2, 2}, {1, 2, 3, 4}).add("layer.1", {3}, {1, 2, 3});
  tensors.write(folder_.path() / "x.safetensors");
  survive_mutations(read_all(folder_.path() / "x.safetensors"), 3000, [&](const std::string& bytes) {
    const SafetensorsFile file(folder_.write("mutated.safetensors", bytes));
    for (const auto& [name, tensor] : file.tensors())
      EXPECT_LE(tensor.data.data() + tensor.data.size(), file.file().bytes().data() + bytes.size());
  });
}

}  // namespace
}  // namespace polylora
