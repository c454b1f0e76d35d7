#include "cli/bench_serve_flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "cli/values.h"
#include "load/load_report.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

int parse_int(const std::string& flag, const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0)
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a whole number of at least 0", flag, text);
  return value;
}

Json parse_object(const std::string& flag, const std::string& text) {
  Json value = Json::parse(text, nullptr, false);
  if (!value.is_object()) fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a JSON object", flag, text);
  return value;
}

void optional_integer(FlagSet& flags, const std::string& name, std::optional<int>& value,
                      const std::string& help) {
  flags.custom(name, "N", help, "",
               [&value, name](const std::string& text) { value = parse_int(name, text); });
}

double parse_range(const std::string& text) {
  const double range = parse_number("--random-range-ratio", text);
  if (range < 0 || range >= 1)
    fail(ErrorCode::kInvalidArgument, "--random-range-ratio {} must be at least 0 and below 1", text);
  return range;
}

/// One number, or {"input": r, "output": r}.
void set_range(RandomPromptOptions& random, const std::string& text) {
  if (!text.starts_with('{')) {
    random.input_range = random.output_range = parse_range(text);
    return;
  }
  for (const auto& [key, value] : parse_object("--random-range-ratio", text).items()) {
    if ((key != "input" && key != "output") || !value.is_number())
      fail(ErrorCode::kInvalidArgument,
           "--random-range-ratio: expected {{\"input\": r, \"output\": r}}, not {}", text);
    (key == "input" ? random.input_range : random.output_range) = parse_range(value.dump());
  }
}

void set_token_range(TokenSource& source, const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos)
    fail(ErrorCode::kInvalidArgument, "--random-token-range: expected FIRST:END, not '{}'", text);
  source.first_id = parse_int("--random-token-range", text.substr(0, colon));
  source.end_id = parse_int("--random-token-range", text.substr(colon + 1));
  if (source.end_id <= source.first_id)
    fail(ErrorCode::kInvalidArgument, "--random-token-range {} is empty", text);
}

void add_server(FlagSet& flags, BenchServeFlags& values) {
  flags.group("Server");
  flags.choice("--backend", values.backend, {"openai", "openai-chat", "vllm"},
               "completions or chat completions; vllm is openai");
  flags.text("--base-url", values.base_url, "URL", "instead of host and port");
  flags.text("--host", values.host, "HOST", "of the server");
  flags.integer("--port", values.port, 1, "of the server");
  flags.custom("--endpoint", "PATH", "of the requests",
               "/v1/completions, with openai-chat /v1/chat/completions",
               [&values](const std::string& text) { values.endpoint = text; });
  flags.list("--header", values.header, "KEY=VALUE",
             "headers of every request ($OPENAI_API_KEY is sent anyway)");
  flags.toggle("--insecure", values.insecure, "do not verify the certificate of an https server");
  flags.integer("--ready-check-timeout-sec", values.ready_check_timeout_sec, 0,
                "wait so long for a first request to succeed; 0: do not wait");
  flags.custom("--model", "NAME", "name of the model", "the first that the server lists",
               [&values](const std::string& text) { values.model = text; });
  flags.text("--served-model-name", values.served_model_name, "NAME",
             "its name in requests, when it is another");
  flags.text("--tokenizer", values.tokenizer, "PATH",
             "tokenizer.json, or a model with one: for text and exact counts where needed");
  flags.list("--lora-modules", values.lora_modules, "NAME", "adapters; every request asks for one of them");
  flags.choice("--lora-assignment", values.lora_assignment, {"random", "round-robin"},
               "of adapters to requests");
  flags.text("--request-id-prefix", values.request_id_prefix, "TEXT",
             "send X-Request-Id: this and the request's number");
}

void add_dataset(FlagSet& flags, BenchServeFlags& values) {
  RandomPromptOptions& random = values.random;
  PrefixRepetitionOptions& repetition = values.prefix_repetition;
  flags.group("Dataset");
  flags.choice("--dataset-name", values.dataset_name, {"random", "prefix_repetition", "custom", "sharegpt"},
               "where prompts come from");
  flags.text("--dataset-path", values.dataset_path, "FILE",
             "of custom (JSON lines with a prompt) and sharegpt");
  flags.integer("--num-prompts", values.num_prompts, 1, "requests");
  flags.integer("--seed", values.seed, 0, "of everything random");
  optional_integer(flags, "--input-len", values.input_len, "the same as --random-input-len");
  optional_integer(flags, "--output-len", values.output_len, "the output length of any dataset");
  flags.integer("--random-input-len", random.input_len, 1, "tokens of a random prompt");
  flags.integer("--random-output-len", random.output_len, 1, "tokens of its output");
  flags.custom("--random-range-ratio", "R", "lengths vary by this share, R or {\"input\": R, \"output\": R}",
               "0.0", [&random](const std::string& text) { set_range(random, text); });
  flags.integer("--random-prefix-len", random.prefix_len, 0, "tokens before it, the same for all");
  flags.custom("--random-token-range", "FIRST:END",
               "random token ids; with a tokenizer all of its vocabulary",
               fmt::format("{}:{}", values.token_source.first_id, values.token_source.end_id),
               [&values](const std::string& text) { set_token_range(values.token_source, text); });
  flags.integer("--prefix-repetition-prefix-len", repetition.prefix_len, 1, "tokens of a prefix");
  flags.integer("--prefix-repetition-suffix-len", repetition.suffix_len, 1, "tokens after it");
  flags.integer("--prefix-repetition-num-prefixes", repetition.num_prefixes, 1, "different prefixes");
  flags.integer("--prefix-repetition-output-len", repetition.output_len, 1, "tokens of the output");
  flags.integer("--custom-output-len", values.custom_output_len, -1,
                "tokens of the output; -1: each row's output_tokens");
  flags.custom("--sharegpt-output-len", "N", "tokens of the output", "as long as the reference answer",
               [&values](const std::string& text) {
                 values.sharegpt_output_len = parse_int("--sharegpt-output-len", text);
               });
  flags.toggle("--disable-shuffle", values.disable_shuffle, "keep the order of the dataset");
  flags.toggle("--no-oversample", values.no_oversample, "do not use prompts twice when there are too few");
  flags.toggle("--ignore-eos", values.ignore_eos, "generate the whole length; always on with random prompts");
  flags.ignored("--skip-chat-template", false, "prompts are sent as they are, or as a chat with openai-chat");
}

void add_sampling(FlagSet& flags, BenchServeFlags& values) {
  flags.group("Sampling");
  for (const char* name : {"temperature", "top-p", "top-k", "min-p", "frequency-penalty", "presence-penalty",
                           "repetition-penalty", "logprobs"}) {
    const std::string flag = std::string("--") + name;
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    const bool whole = key == "top_k" || key == "logprobs";
    flags.custom(flag, "X", "of every request", "the server's",
                 [&values, flag, key, whole](const std::string& text) {
                   const double value = parse_number(flag, text);
                   if (whole && value != std::floor(value))
                     fail(ErrorCode::kInvalidArgument, "{}: {} is not whole", flag, text);
                   values.body.extra[key] = whole ? Json(static_cast<int64_t>(value)) : Json(value);
                 });
  }
  flags.custom(
      "--extra-body", "JSON", "object whose members are added to every request", "",
      [&values](const std::string& text) { values.body.extra.update(parse_object("--extra-body", text)); });
  flags.refused("--use-beam-search", "requests sample");
}

void add_traffic(FlagSet& flags, BenchServeFlags& values) {
  flags.group("Traffic");
  flags.number("--request-rate", values.arrivals.request_rate,
               "requests that arrive per second; inf: all at once");
  flags.number("--burstiness", values.arrivals.burstiness,
               "of a finite rate: 1 is a Poisson process, less is more bursty, more is evener");
  flags.custom("--max-concurrency", "N", "requests that run at a time", "any number",
               [&values](const std::string& text) {
                 values.max_concurrency = parse_int("--max-concurrency", text);
                 if (values.max_concurrency == 0)
                   fail(ErrorCode::kInvalidArgument, "--max-concurrency must be greater than 0");
               });
  flags.custom("--ramp-up-strategy", "{linear,exponential}", "let the rate grow", "",
               [&values](const std::string& text) {
                 if (text != "linear" && text != "exponential")
                   fail(ErrorCode::kInvalidArgument,
                        "--ramp-up-strategy: '{}' is not one of linear, exponential", text);
                 values.arrivals.ramp_up = text == "linear" ? RampUp::kLinear : RampUp::kExponential;
               });
  optional_integer(flags, "--ramp-up-start-rps", values.ramp_up_start_rps,
                   "from so many requests per second");
  optional_integer(flags, "--ramp-up-end-rps", values.ramp_up_end_rps, "to so many");
  flags.integer("--num-warmups", values.num_warmups, 0, "requests before the measured ones");
  flags.number("--probe-request-rate", values.probe_request_rate,
               "requests per second for one token beside the load, measured apart");
  flags.refused("--profile", "see CONTRIBUTING.md for how to profile the server");
  flags.refused("--self-timed", "there is no dataset with times");
}

void add_results(FlagSet& flags, BenchServeFlags& values) {
  flags.group("Results");
  flags.text("--percentile-metrics", values.percentile_metrics, "LIST",
             fmt::format("what to report, of {}", fmt::join(latency_metric_names(), ",")));
  flags.text("--metric-percentiles", values.metric_percentiles, "LIST", "which percentiles of it");
  flags.list("--goodput", values.goodput, "NAME:MS",
             "count requests within these bounds on ttft, tpot, e2el");
  flags.text("--label", values.label, "TEXT", "begins the name of the result file (default: the backend)");
  flags.toggle("--save-result", values.save_result, "write a JSON file");
  flags.toggle("--save-detailed", values.save_detailed, "… with lists of a value per request");
  flags.toggle("--append-result", values.append_result, "… as one more line of an existing file");
  flags.text("--result-dir", values.result_dir, "DIR", "of that file");
  flags.text("--result-filename", values.result_filename, "NAME",
             "(default: LABEL-RATEqps[-concurrencyN]-MODEL-DATE.json)");
  flags.list("--metadata", values.metadata, "KEY=VALUE", "members to add to it");
  flags.toggle("--disable-tqdm", values.disable_tqdm, "no progress bar");
  flags.refused("--plot-timeline", "the file of --save-detailed has what it takes");
  flags.refused("--plot-dataset-stats", "the file of --save-detailed has what it takes");
}

}  // namespace

void add_bench_serve_flags(FlagSet& flags, BenchServeFlags& values) {
  add_server(flags, values);
  add_dataset(flags, values);
  add_sampling(flags, values);
  add_traffic(flags, values);
  add_results(flags, values);
}

}  // namespace polylora
