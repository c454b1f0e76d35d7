#include "load/stream_recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace polylora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// Feeds one event per second, beginning with second 1.
RequestRecord replay(const std::vector<std::string>& chunks) {
  RequestRecord record;
  StreamRecorder recorder(record, true);
  double now = 0;
  for (const std::string& chunk : chunks) recorder.feed("data: " + chunk + "\n\n", now += 1);
  recorder.finish();
  return record;
}

std::string failure(const std::vector<std::string>& chunks) {
  try {
    replay(chunks);
  } catch (const Error& error) {
    return error.what();
  }
  return "no failure";
}

constexpr const char* kDone = "[DONE]";

TEST(StreamRecorder, TimesPiecesAndTakesTokensFromTheUsage) {
  const RequestRecord record =
      replay({R"({"choices":[{"text":"a","finish_reason":null}]})",
              R"({"choices":[{"text":"","finish_reason":null}]})",
              R"({"choices":[{"text":"bc","finish_reason":"length"}]})",
              R"({"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}})", kDone});
  EXPECT_TRUE(record.success);
  EXPECT_EQ(record.text, "abc");
  EXPECT_DOUBLE_EQ(record.ttft_s, 1);
  EXPECT_THAT(record.itl_s, ElementsAre(1, 1));
  EXPECT_DOUBLE_EQ(record.latency_s, 3);
  EXPECT_EQ(record.prompt_tokens, 5);
  EXPECT_EQ(record.output_tokens, 4);
}

TEST(StreamRecorder, CountsPiecesWithoutUsage) {
  EXPECT_EQ(replay({R"({"choices":[{"text":"a"}]})", R"({"choices":[{"text":"b"}]})", kDone}).output_tokens,
            2);
}

TEST(StreamRecorder, ARoleOrAFinishReasonAloneIsNoOutput) {
  const RequestRecord record =
      replay({R"({"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]})",
              R"({"choices":[{"delta":{"content":"hi"},"finish_reason":null}]})",
              R"({"choices":[{"delta":{},"finish_reason":"stop"}]})", kDone});
  EXPECT_EQ(record.output_tokens, 1);
  EXPECT_DOUBLE_EQ(record.ttft_s, 2);
  EXPECT_THAT(record.itl_s, ElementsAre());
}

TEST(StreamRecorder, ASingleTokenWithoutTextIsOutput) {
  const RequestRecord record = replay({R"({"choices":[{"text":"","finish_reason":"length"}]})", kDone});
  EXPECT_TRUE(record.success);
  EXPECT_EQ(record.output_tokens, 1);
}

TEST(StreamRecorder, RefusesWhatIsNoCompleteStream) {
  EXPECT_THAT(failure({}), HasSubstr("without any output"));
  EXPECT_THAT(failure({kDone}), HasSubstr("without any output"));
  EXPECT_THAT(failure({R"({"choices":[{"text":"a"}]})"}), HasSubstr("broke off after 1"));
  EXPECT_THAT(failure({"{nonsense"}), HasSubstr("no JSON object: '{nonsense'"));
  EXPECT_THAT(failure({"[1]"}), HasSubstr("no JSON object"));
  EXPECT_EQ(failure({R"({"error":{"message":"out of\nmemory"}})"}), "out of memory");
  EXPECT_EQ(failure({R"({"error":"full"})"}), "full");
}

TEST(StreamRecorder, SurvivesMembersOfTheWrongType) {
  EXPECT_THAT(failure({R"({"choices":3,"usage":[]})"}), HasSubstr("without any output"));
  EXPECT_THAT(failure({R"({"choices":[null],"usage":{"completion_tokens":-3}})"}),
              HasSubstr("without any output"));
  EXPECT_TRUE(
      replay({R"({"choices":[{"text":7,"delta":8}],"usage":{"completion_tokens":1e99}})", kDone}).success);
}

TEST(DescribeError, FindsTheServersWords) {
  EXPECT_EQ(describe_error(R"({"error":{"message":"no such model","code":404}})"), "no such model");
  EXPECT_EQ(describe_error(R"({"error":"Unauthorized"})"), "Unauthorized");
  EXPECT_EQ(describe_error(R"({"object":"error","message":"old vLLM"})"), "old vLLM");
  EXPECT_EQ(describe_error("<html>\r\nBad gateway"), "<html>  Bad gateway");
  EXPECT_EQ(describe_error(std::string(1000, 'x')), std::string(300, 'x') + "…");
}

}  // namespace
}  // namespace polylora
