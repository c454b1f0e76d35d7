// Chat templates against transformers' renderings.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "text/chat_template.h"

namespace polylora {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

std::tm frozen() {  // the `now` of the golden files: 2025-03-09T14:05:06
  std::tm t{};
  t.tm_year = 125;
  t.tm_mon = 2;
  t.tm_mday = 9;
  t.tm_hour = 14;
  t.tm_min = 5;
  t.tm_sec = 6;
  t.tm_yday = 67;
  return t;
}

ChatTemplate::Options options_of(const ordered_json& header, const ordered_json& c) {
  ChatTemplate::Options o;
  o.clock = frozen;
  o.add_generation_prompt = c["add_generation_prompt"].get<bool>();
  const auto token = [&](const char* key, std::string& out, bool& has) {
    has = header[key].is_string();
    if (has) out = header[key].get<std::string>();
  };
  token("bos_token", o.bos_token, o.has_bos);
  token("eos_token", o.eos_token, o.has_eos);
  if (c.contains("tools")) o.tools = c["tools"];
  o.extra_kwargs = c.value("kwargs", ordered_json::object());
  if (o.extra_kwargs.contains("continue_final_message")) {
    o.continue_final_message = o.extra_kwargs["continue_final_message"].get<bool>();
    o.extra_kwargs.erase("continue_final_message");
  }
  return o;
}

class ChatGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatGolden, Cases) {
  const fs::path folder = fs::path(POLYLORA_TEST_DATA) / "text" / "chat";
  const ordered_json file = ordered_json::parse(read_text_file(folder / (std::string(GetParam()) + ".json")));
  const ChatTemplate chat(read_text_file(folder / (std::string(GetParam()) + ".jinja")));
  for (const ordered_json& c : file["cases"]) {
    std::string got, error;
    try {
      got = chat.render(c["messages"], options_of(file, c));
    } catch (const Error& e) {
      error = e.what();
    }
    const std::string name = c["name"].get<std::string>() + (c.contains("edge") ? " (edge)" : "");
    if (c.contains("expected")) {
      EXPECT_EQ(error, "") << name;
      EXPECT_EQ(got, c["expected"].get<std::string>()) << name;
    } else if (c["error_kind"] == "raise_exception") {
      EXPECT_EQ(error, c["error"].get<std::string>()) << name;
    } else {
      EXPECT_NE(error, "") << name << ": " << c["error"];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ChatGolden,
                         ::testing::Values("chatml_vllm", "deepseek_r1_qwen", "deepseek_v3.1", "glm4.6",
                                           "gpt_oss", "granite3.3", "llama2_mistralrs", "llama3_mistralrs",
                                           "mistral_nemo", "mistral_v1_mistralrs", "phi3.5", "qwen2.5",
                                           "qwen3", "smollm2", "smollm3"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace polylora
