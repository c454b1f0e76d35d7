// What is written as GGUF is read back the same.
#include "io/gguf_writer.h"

#include "io/file_builders.h"
#include "io/gguf.h"

namespace polylora {
namespace {

using testing::ElementsAre;
using testing_files::expect_error;
using testing_files::TempFolder;

TEST(GgufWriter, FieldsAndTensorsReadBack) {
  const TempFolder folder;
  const auto path = folder.path() / "x.gguf";
  const std::vector<float> first = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> second = {0x3f80, 0x4000, 0xbf80};
  {
    const auto writer = open_gguf_writer(path,
                                         {{"flag", true},
                                          {"count", uint32_t{4000000000u}},
                                          {"real", 0.25f},
                                          {"text", std::string("zwölf")},
                                          {"ids", std::vector<int32_t>{-1, 7}},
                                          {"reals", std::vector<float>{0.5f, -2.0f}},
                                          {"words", std::vector<std::string>{"a", "", "c d"}}},
                                         {{"first", DType::kF32, {2, 3}}, {"second", DType::kBf16, {3}}});
    writer->write(1, 0, std::as_bytes(std::span(second)));
    writer->write(0, 12, std::as_bytes(std::span(first).last(3)));
    writer->write(0, 0, std::as_bytes(std::span(first).first(3)));
    EXPECT_FALSE(std::filesystem::exists(path)) << "nothing appears before commit";
    writer->commit();
  }
  const GgufFile file(path);
  EXPECT_EQ(file.get<bool>("flag"), true);
  EXPECT_EQ(file.get<int64_t>("count"), 4000000000);
  EXPECT_EQ(file.get<double>("real"), 0.25);
  EXPECT_EQ(file.get<std::string>("text"), "zwölf");
  EXPECT_THAT(file.get<std::vector<int64_t>>("ids"), ElementsAre(-1, 7));
  EXPECT_THAT(file.get<std::vector<double>>("reals"), ElementsAre(0.5, -2.0));
  EXPECT_THAT(file.get<std::vector<std::string>>("words"), ElementsAre("a", "", "c d"));
  const TensorView& a = file.tensors().at("first");
  const TensorView& b = file.tensors().at("second");
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_THAT(b.shape, ElementsAre(3));
  EXPECT_EQ(b.dtype, DType::kBf16);
  EXPECT_EQ(std::memcmp(a.data.data(), first.data(), a.data.size()), 0);
  EXPECT_EQ(std::memcmp(b.data.data(), second.data(), b.data.size()), 0);
}

TEST(GgufWriter, AnIncompleteFileIsNotCommitted) {
  const TempFolder folder;
  {
    const auto writer = open_gguf_writer(folder.path() / "x.gguf", {}, {{"w", DType::kF32, {4}}});
    const std::vector<float> half = {1, 2};
    writer->write(0, 0, std::as_bytes(std::span(half)));
    expect_error(ErrorCode::kInternal, {"every byte"}, [&] { writer->commit(); });
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace polylora
