#include "load/sse_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

using testing::ElementsAre;

std::vector<std::string> events(std::string_view stream, size_t piece) {
  std::vector<std::string> result;
  SseReader reader([&result](std::string_view data) { result.emplace_back(data); });
  for (; !stream.empty(); stream.remove_prefix(std::min(piece, stream.size())))
    reader.feed(stream.substr(0, piece));
  reader.finish();
  return result;
}

constexpr std::string_view kOdd =
    "\xEF\xBB\xBF"
    "data: one\n\n"
    ": ping\r\n\r\n"
    "event: x\r\nid: 7\r\ndata:two\r\ndata:  lines\r\n\r\n"
    "data\rdata: \r\r"
    "dataset: no\n\n"
    "data: \xC3\xA4\n\n\n\n"
    "data: last";

TEST(SseReader, TakesEveryFramingCutAnywhere) {
  for (size_t piece = 1; piece <= kOdd.size(); ++piece)
    EXPECT_THAT(events(kOdd, piece), ElementsAre("one", "two\n lines", "\n", "\xC3\xA4", "last")) << piece;
}

TEST(SseReader, WaitsForTheEndOfAnEvent) {
  std::vector<std::string> seen;
  SseReader reader([&seen](std::string_view data) { seen.emplace_back(data); });
  reader.feed("data: a\n");
  EXPECT_TRUE(seen.empty());
  reader.feed("\n");
  EXPECT_THAT(seen, ElementsAre("a"));
}

TEST(SseReader, BoundsTheSizeOfAnEvent) {
  SseReader reader([](std::string_view) {}, 8);
  reader.feed("data: 1\n\n");  // an ended event does not count any more
  EXPECT_THROW(reader.feed("data: 123456789"), Error);
  SseReader lines([](std::string_view) {}, 8);
  lines.feed("data: 1\n");
  EXPECT_THROW(for (int i = 0; i < 20; ++i) lines.feed("data: 1\n"), Error);
}

}  // namespace
}  // namespace polylora
