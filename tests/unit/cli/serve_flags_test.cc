#include "cli/serve_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "cli/serve_command_line.h"

namespace polylora {
namespace {

using ::testing::AllOf;
using testing::ConfigFile;
using ::testing::HasSubstr;
using testing::parse_serve;
using testing::serve_refusal;

TEST(ServeFlags, DefaultsAreThoseOfTheStructs) {
  const ServeFlags flags = parse_serve({"m"});
  EXPECT_EQ(flags.load.model, "m");
  EXPECT_EQ(flags.served_model_name, std::vector<std::string>{"m"});
  EXPECT_EQ(flags.engine.max_num_seqs, EngineOptions{}.max_num_seqs);
  EXPECT_EQ(flags.server.port, ServerOptions{}.port);
  EXPECT_TRUE(flags.engine.enable_prefix_caching);
  EXPECT_FALSE(flags.server.enable_lora);
  EXPECT_EQ(flags.load.policy, WeightPolicy::kNative);
  EXPECT_EQ(flags.engine.kv_cache_dtype, DType::kBf16);
}

TEST(ServeFlags, ReadsACommandLineWrittenForVllm) {
  const ServeFlags flags = parse_serve({"m",
                                        "--enable-lora",
                                        "--lora-modules",
                                        "a=/a",
                                        "b=/b",
                                        "--max_loras=4",
                                        "--max-cpu-loras",
                                        "8",
                                        "--max-model-len",
                                        "4K",
                                        "--kv-cache-memory-bytes",
                                        "1G",
                                        "--no-enable-prefix-caching",
                                        "--port",
                                        "0",
                                        "--served-model-name",
                                        "x",
                                        "y",
                                        "-tp",
                                        "2",
                                        "--trust-remote-code",
                                        "--gpu-memory-utilization=0.5",
                                        "--api-key",
                                        "k1",
                                        "--api-key",
                                        "k2",
                                        "--disable-uvicorn-access-log",
                                        "--dtype",
                                        "float32"});
  EXPECT_TRUE(flags.server.enable_lora);
  EXPECT_EQ(flags.lora_modules, (std::vector<std::string>{"a=/a", "b=/b"}));
  EXPECT_EQ(flags.engine.max_loras, 4);
  EXPECT_EQ(flags.engine.max_model_len, 4096);
  EXPECT_EQ(flags.engine.kv_cache_bytes, size_t{1} << 30);
  EXPECT_FALSE(flags.engine.enable_prefix_caching);
  EXPECT_EQ(flags.server.port, 0);
  EXPECT_EQ(flags.served_model_name, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(flags.server.api_keys, (std::vector<std::string>{"k1", "k2"}));
  EXPECT_FALSE(flags.server.access_log);
  EXPECT_EQ(flags.load.policy, WeightPolicy::kF32);
  EXPECT_EQ(flags.engine.kv_cache_dtype, DType::kF32);
  EXPECT_EQ(flags.adapter_dtype, DType::kF32);
}

TEST(ServeFlags, KvCacheDtype) {
  EXPECT_EQ(parse_serve({"m", "--kv-cache-dtype", "int8"}).engine.kv_cache_dtype, DType::kI8);
  EXPECT_EQ(parse_serve({"m", "--kv-cache-dtype", "int8", "--dtype", "float32"}).engine.kv_cache_dtype,
            DType::kI8);
  EXPECT_EQ(parse_serve({"m", "--kv-cache-dtype", "bfloat16", "--dtype", "float32"}).engine.kv_cache_dtype,
            DType::kBf16);
  EXPECT_THAT(serve_refusal({"m", "--kv-cache-dtype", "fp8"}), AllOf(HasSubstr("'fp8'"), HasSubstr("int8")));
}

TEST(ServeFlags, TheLastOneWins) {
  EXPECT_EQ(parse_serve({"m", "--port", "1", "--port=2"}).server.port, 2);
  EXPECT_TRUE(parse_serve({"m", "--no-enable-lora", "--enable-lora"}).server.enable_lora);
}

TEST(ServeFlags, MaxModelLenAuto) {
  EXPECT_TRUE(parse_serve({"m", "--max-model-len", "auto"}).fit_max_model_len);
  EXPECT_TRUE(parse_serve({"m", "--max-model-len", "-1"}).fit_max_model_len);
  EXPECT_TRUE(parse_serve({"m", "--max-model-len=-1"}).fit_max_model_len);
}

TEST(ServeFlags, RefusalsSayWhatToDo) {
  EXPECT_THAT(serve_refusal({"m", "--max-lora-ranks", "8"}), HasSubstr("did you mean --max-lora-rank?"));
  EXPECT_THAT(serve_refusal({"m", "--hf-overrides", "{}"}), HasSubstr("config.json"));
  EXPECT_THAT(serve_refusal({"m", "--quantization", "awq"}), HasSubstr("q8, q4"));
  EXPECT_THAT(serve_refusal({"m", "--block-size", "32"}), HasSubstr("16"));
  EXPECT_THAT(serve_refusal({"m", "--port", "70000"}), HasSubstr("65535"));
  EXPECT_THAT(serve_refusal({"m", "--max-num-seqs", "0"}), HasSubstr("at least 1"));
  EXPECT_THAT(serve_refusal({"m", "--max-num-seqs", "many"}), HasSubstr("'many'"));
  EXPECT_THAT(serve_refusal({"m", "--max-num-seqs"}), HasSubstr("--max-num-seqs"));
  EXPECT_THAT(serve_refusal({"m", "--max-loras", "4", "--max-cpu-loras", "2"}), HasSubstr(">= --max-loras"));
  EXPECT_THAT(serve_refusal({"m", "--ssl-keyfile", "k"}), HasSubstr("--ssl-certfile"));
  EXPECT_THAT(serve_refusal({}), HasSubstr("MODEL"));
  EXPECT_THAT(serve_refusal({"m", "second"}), HasSubstr("second"));
  EXPECT_EQ(serve_refusal({"m", "--lora-modules", "a=/a"}),
            "LoRA is not enabled. Use --enable-lora to enable LoRA.");
}

TEST(ServeFlags, ConfigFileHoldsFlagsAndTheCommandLineWins) {
  const ConfigFile file(
      "model: from-file\n"
      "port: 1234\n"
      "max_num_seqs: 7\n"
      "enable-lora: true\n"
      "enable-prefix-caching: false\n"
      "trust-remote-code: false\n"
      "allowed-origins: [\"http://a\"]\n"
      "lora-modules:\n"
      "  - {name: a, path: /p}\n"
      "  - b=/q\n");
  const ServeFlags from_file = parse_serve({"--config", file.path(), "--port=99"});
  EXPECT_EQ(from_file.load.model, "from-file");
  EXPECT_EQ(from_file.server.port, 99);
  EXPECT_EQ(from_file.engine.max_num_seqs, 7);
  EXPECT_FALSE(from_file.engine.enable_prefix_caching);
  EXPECT_EQ(from_file.lora_modules, (std::vector<std::string>{R"({"name":"a","path":"/p"})", "b=/q"}));

  const ServeFlags both = parse_serve({"mine", "--enable-prefix-caching", "--config=" + file.path()});
  EXPECT_EQ(both.load.model, "mine");
  EXPECT_TRUE(both.engine.enable_prefix_caching);
}

TEST(ServeFlags, BrokenConfigFilesAreRefused) {
  const ConfigFile list("- a\n- b\n");
  EXPECT_THAT(serve_refusal({"m", "--config", list.path()}), HasSubstr("flag-name: value"));
  const ConfigFile unknown("no-such-thing: 1\n");
  EXPECT_THAT(serve_refusal({"m", "--config", unknown.path()}), HasSubstr("--no-such-thing"));
  const ConfigFile broken("a: [1\n");
  EXPECT_THAT(serve_refusal({"m", "--config", broken.path()}), HasSubstr("line"));
}

TEST(ServeFlags, Environment) {
  setenv("VLLM_API_KEY", "secret", 1);
  setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "true", 1);
  setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "9", 1);
  const ServeFlags flags = parse_serve({"m"});
  EXPECT_EQ(flags.server.api_keys, std::vector<std::string>{"secret"});
  EXPECT_TRUE(flags.server.allow_runtime_lora_updating);
  EXPECT_EQ(flags.server.keep_alive_timeout, std::chrono::seconds(9));
  EXPECT_EQ(parse_serve({"m", "--api-key", "mine"}).server.api_keys, std::vector<std::string>{"mine"});
  unsetenv("VLLM_API_KEY");
  unsetenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING");
  unsetenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE");
}

TEST(ServeFlags, WatchingNeedsLora) {
  EXPECT_THAT(serve_refusal({"m", "--lora-watch", "saves/x"}), HasSubstr("--enable-lora"));
  const ServeFlags flags = parse_serve({"m", "--enable-lora", "--lora-watch", "saves/x", "y=saves/y"});
  EXPECT_EQ(flags.lora_watch, (std::vector<std::string>{"saves/x", "y=saves/y"}));
}

}  // namespace
}  // namespace polylora
