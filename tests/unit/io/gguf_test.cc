#include "io/gguf.h"

#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;

class Gguf : public testing::Test {
 protected:
  GgufFile open(const std::string& bytes) { return GgufFile(folder_.write("x.gguf", bytes)); }
  void expect_refused(const std::string& bytes, const std::string& part,
                      ErrorCode code = ErrorCode::kDataCorrupt) {
    expect_error(code, {"x.gguf", part}, [&] { open(bytes); });
  }

  TempFolder folder_;
};

GgufBuilder small_file() {
  GgufBuilder builder;
  builder.text("general.architecture", "llama").u32("n", 7).f32("x", 0.5f).boolean("yes", true);
  builder.texts("names", {"a", "", "ccc"}).i32s("numbers", {-1, 2});
  builder.tensor("w", {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6}).tensor("v", {1}, std::vector<float>{9});
  return builder;
}

TEST_F(Gguf, ReadsMetadataAndTensors) {
  const GgufFile file = open(small_file().bytes());
  EXPECT_EQ(file.get<std::string>("general.architecture"), "llama");
  EXPECT_EQ(file.get<int64_t>("n"), 7);
  EXPECT_EQ(file.get<double>("x"), 0.5);
  EXPECT_EQ(file.get<bool>("yes"), true);
  EXPECT_THAT(file.get<std::vector<std::string>>("names"), testing::ElementsAre("a", "", "ccc"));
  EXPECT_THAT(file.get<std::vector<int64_t>>("numbers"), testing::ElementsAre(-1, 2));
  EXPECT_EQ(file.tensors().at("w").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.tensors().at("v").data.size(), 4u);
}

TEST_F(Gguf, AKeyThatIsAbsentOrOfAnotherTypeIsNamed) {
  const GgufFile file = open(small_file().bytes());
  EXPECT_EQ(file.find<int64_t>("absent"), nullptr);
  expect_error(ErrorCode::kDataCorrupt, {"x.gguf", "absent"}, [&] { file.get<int64_t>("absent"); });
  expect_error(ErrorCode::kDataCorrupt, {"x.gguf", "names"}, [&] { file.get<int64_t>("names"); });
}

TEST_F(Gguf, RefusesOtherFilesAndVersions) {
  expect_refused("", "neither a folder nor a GGUF file");
  expect_refused("PK\x03\x04 something", "neither a folder nor a GGUF file");
  std::string bytes = small_file().bytes();
  bytes[4] = 1;
  expect_refused(bytes, "version 1", ErrorCode::kUnsupported);
}

TEST_F(Gguf, RefusesEveryCutShortFile) {
  const std::string bytes = small_file().bytes();
  for (size_t size = 0; size + 32 < bytes.size(); ++size)
    expect_error(ErrorCode::kDataCorrupt, {"x.gguf"}, [&] { open(bytes.substr(0, size)); });
}

TEST_F(Gguf, RefusesTensorsThatDoNotFit) {
  const std::string data(64, '\0');
  expect_refused(GgufBuilder().tensor("w", {100}, 0, data).bytes(), "w runs past the end");
  expect_refused(GgufBuilder().tensor("w", {1 << 30, 1 << 30, 1 << 30, 1 << 30}, 0, data).bytes(),
                 "w runs past the end");
  expect_refused(GgufBuilder().tensor("w", {0}, 0, data).bytes(), "w has a strange shape");
  expect_refused(GgufBuilder().tensor("w", {1, 1, 1, 1, 1}, 0, data).bytes(), "w has a strange rank");
  expect_refused(GgufBuilder().tensor("w", {2, 16}, 8, data).bytes(), "rows of w are no whole blocks");
  expect_refused(GgufBuilder().tensor("w", {1}, 0, data).tensor("w", {1}, 0, data).bytes(),
                 "w is there twice");
  expect_refused(GgufBuilder().u32("general.alignment", 0).tensor("w", {1}, 0, data).bytes(), "alignment");
}

TEST_F(Gguf, NamesATensorTypeWithoutAReader) {
  const std::string data(256, '\0');
  expect_refused(GgufBuilder().tensor("blk.0.w", {256}, 39, data).bytes(), "blk.0.w is stored as MXFP4",
                 ErrorCode::kUnsupported);
  expect_refused(GgufBuilder().tensor("blk.0.w", {256}, 99, data).bytes(), "unknown GGUF type 99",
                 ErrorCode::kUnsupported);
}

TEST_F(Gguf, SurvivesMutations) {
  survive_mutations(small_file().bytes(), 2000, [&](const std::string& bytes) { open(bytes); });
}

}  // namespace
}  // namespace polylora
