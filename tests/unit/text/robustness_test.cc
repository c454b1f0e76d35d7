// Whatever the input: an Error or a result, never a crash, and no work that grows faster than the input.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "text/chat_template.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using Random = std::mt19937_64;

std::string data(const std::string& path) {
  return read_text_file(std::string(POLYLORA_TEST_DATA) + "/text/" + path);
}

size_t below(Random& random, size_t n) {
  return static_cast<size_t>(random() % n);
}

/// Overwrites, removes, repeats or inserts a few stretches.
std::string mutate(std::string text, Random& random) {
  static const std::vector<std::string> kSpice = {
      "null", "[]", "{}", "-1", "1e99", "\"\"", "true",     "{%",       "%}", "{{", "}}",
      "for",  "(",  "[",  "|",  "\\",   "\xff", "\xf0\x9f", "\"type\"", ",",  ":"};
  for (size_t n = 1 + below(random, 4); n > 0 && !text.empty(); --n) {
    const size_t at = below(random, text.size()), length = std::min(text.size() - at, below(random, 40));
    switch (below(random, 5)) {
      case 0:
        text.erase(at, length);
        break;
      case 1:
        text.insert(at, text.substr(at, length));
        break;
      case 2:
        text[at] = static_cast<char>(random());
        break;
      case 3:
        text.insert(at, kSpice[below(random, kSpice.size())]);
        break;
      default:
        text.replace(at, length, kSpice[below(random, kSpice.size())]);
    }
  }
  return text;
}

/// A small tokenizer.json with every kind of component in turn.
std::string small_tokenizer(size_t kind) {
  static const std::vector<std::string> kPre = {
      R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})",
      R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true})",
      R"json({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{L}+|\\s+(?!\\S)"},"behavior":"MergedWithNext","invert":true},{"type":"Digits","individual_digits":true},{"type":"Punctuation"}]})json",

      R"({"type":"Sequence","pretokenizers":[{"type":"Whitespace"},{"type":"CharDelimiterSplit","delimiter":"-"}]})",
      "null"};
  static const std::vector<std::string> kDecoder = {
      R"({"type":"ByteLevel"})", R"({"type":"Metaspace","replacement":"▁","add_prefix_space":true})",
      R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]})",
      "null"};
  return R"({"added_tokens":[{"id":9,"content":"<s>","special":true,"normalized":false,"lstrip":true,"rstrip":true,"single_word":false},
    {"id":10,"content":"ab","special":false,"normalized":true,"single_word":true}],
    "normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"Strip"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"Regex":" +"},"content":"▁"}]},
    "pre_tokenizer":)" +
         kPre[kind % kPre.size()] +
         R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[9],"tokens":["<s>"]}}},
    "decoder":)" +
         kDecoder[kind % kDecoder.size()] +
         R"(,"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,
    "vocab":{"<unk>":0,"a":1,"b":2,"ab":3,"▁":4,"▁a":5,"<0xE2>":6,"<0x0A>":7,"Ġ":8,"aa":11,"aaaa":12},
    "merges":["a b",["▁","a"],"a a","aa aa"]}})";
}

std::string random_bytes(Random& random) {
  static const std::string kPool = "ab  ▁<s>é日\n0-\xff\xf0\x9f\x98\x80\xe2\x81";
  std::string out;
  for (size_t n = below(random, 80); n > 0; --n) out += kPool[below(random, kPool.size())];
  return out;
}

void exercise(const Tokenizer& tokenizer, Random& random) {
  const std::vector<int32_t> ids = tokenizer.encode(random_bytes(random), true);
  EXPECT_TRUE(is_valid_utf8(tokenizer.decode(ids, false)));
  StreamDecoder stream(tokenizer, true);
  for (int i = 0; i < 20; ++i)
    EXPECT_TRUE(is_valid_utf8(stream.push(static_cast<int32_t>(below(random, 20)) - 2)));
  EXPECT_TRUE(is_valid_utf8(stream.flush()));
}

TEST(TextRobustness, MutatedTokenizers) {
  Random random(1);
  int loaded = 0;
  for (size_t i = 0; i < 4000; ++i) {
    try {
      const auto tokenizer =
          Tokenizer::from_json(i < 20 ? small_tokenizer(i) : mutate(small_tokenizer(i), random));
      ++loaded;
      exercise(*tokenizer, random);
    } catch (const Error&) {
      EXPECT_GE(i, 20u);
    }
  }
  EXPECT_GT(loaded, 100);
}

TEST(TextRobustness, MutatedTemplates) {
  Random random(2);
  const auto file = nlohmann::ordered_json::parse(data("chat/qwen3.json"));
  const std::vector<std::string> sources = {data("chat/qwen3.jinja"), data("chat/gpt_oss.jinja"),
                                            data("chat/mistral_nemo.jinja"), data("chat/glm4.6.jinja")};
  for (int i = 0; i < 4000; ++i) {
    const auto& c = file["cases"][below(random, file["cases"].size())];
    try {
      ChatTemplate::Options options;
      if (c.contains("tools")) options.tools = c["tools"];
      ChatTemplate(mutate(sources[below(random, sources.size())], random)).render(c["messages"], options);
    } catch (const Error&) {
    }
  }
}

TEST(TextRobustness, DeepJsonIsRefused) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THROW(Tokenizer::from_json(R"({"model":{},"normalizer":)" + deep + "}"), Error);
  const ChatTemplate chat("{{ messages }}");
  EXPECT_THROW(chat.render(nlohmann::ordered_json::parse(deep), {}), Error);
}

TEST(TextRobustness, UnknownComponentsAreNamed) {
  std::string json = small_tokenizer(4);
  json.replace(json.find("NFKC"), 4, "Nmt9");
  try {
    Tokenizer::from_json(json);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("Nmt9"), std::string::npos);
  }
}

TEST(TextRobustness, LongRunsStayFast) {
  const auto byte_level = Tokenizer::from_json(data("tokenizers/smollm2/tokenizer.json"));
  const auto sentence_piece = Tokenizer::from_json(small_tokenizer(4));
  const auto start = std::chrono::steady_clock::now();
  for (const std::string unit :
       {"a", " ", "\n", "ab", "é", "日", "'", "1", "\xcc\x81", "\xcc\x81\xcc\xa7", "\xff"}) {
    std::string text;
    while (text.size() < 500'000) text += unit;
    byte_level->decode(byte_level->encode(text, false), false);
    sentence_piece->decode(sentence_piece->encode(text, false), false);
  }
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  EXPECT_LT(spent.count(), 60) << "quadratic work";  // about 2 s; wide for sanitizers and busy machines
}

TEST(TextRobustness, TokenBytes) {
  const auto t = Tokenizer::from_json(data("tokenizers/smollm2/tokenizer.json"));
  std::string joined;
  for (const int32_t id : t->encode("Grüße 日本 🙂 x", false)) joined += t->token_bytes(id);
  EXPECT_EQ(joined, "Grüße 日本 🙂 x");
  EXPECT_EQ(t->token_bytes(1'000'000), "");
  EXPECT_EQ(t->token_bytes(-1), "");
}

TEST(Utf8, MaximalSubparts) {
  EXPECT_EQ(to_valid_utf8("a\xf0\x9f\x98"), "a\xef\xbf\xbd");
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(to_valid_utf8("\xf4\x90\x80\x80z"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
  EXPECT_EQ(valid_utf8_prefix("é\xc3"), 2u);
  EXPECT_EQ(utf8_length("aé日🙂"), 4u);
}

}  // namespace
}  // namespace polylora
