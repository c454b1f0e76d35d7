// What the flags of `bench serve` mean together.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "cli/bench_serve_flags.h"
#include "cli/values.h"
#include "load/load_report.h"

namespace polylora {
namespace {

void check_ramp_up(const BenchServeFlags& values) {
  if (values.arrivals.ramp_up == RampUp::kNone) return;
  if (!std::isinf(values.arrivals.request_rate))
    fail(ErrorCode::kInvalidArgument, "--ramp-up-strategy sets the rate: leave --request-rate out");
  if (!values.ramp_up_start_rps || !values.ramp_up_end_rps)
    fail(ErrorCode::kInvalidArgument, "--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps");
  if (*values.ramp_up_start_rps > *values.ramp_up_end_rps)
    fail(ErrorCode::kInvalidArgument, "--ramp-up-start-rps must not be above --ramp-up-end-rps");
  if (*values.ramp_up_start_rps == 0)
    fail(ErrorCode::kInvalidArgument,
         "--ramp-up-start-rps must be greater than 0: the first request never came");
}

void check_dataset(const BenchServeFlags& values) {
  const bool from_file = values.dataset_name == "custom" || values.dataset_name == "sharegpt";
  if (from_file && values.dataset_path.empty())
    fail(ErrorCode::kInvalidArgument, "--dataset-name {} needs --dataset-path", values.dataset_name);
  if (!from_file && !values.dataset_path.empty())
    fail(ErrorCode::kInvalidArgument,
         "--dataset-path has no meaning with --dataset-name {}: name custom or sharegpt",
         values.dataset_name);
}

void apply_general_lengths(BenchServeFlags& values) {
  if (values.input_len) values.random.input_len = *values.input_len;
  if (!values.output_len) return;
  values.random.output_len = *values.output_len;
  values.prefix_repetition.output_len = *values.output_len;
  values.custom_output_len = *values.output_len;
  values.sharegpt_output_len = *values.output_len;
}

}  // namespace

HeaderList parse_pairs(const std::string& flag, const std::vector<std::string>& items) {
  const auto trim = [](const std::string& text) {
    const size_t begin = text.find_first_not_of(' ');
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
  };
  HeaderList pairs;
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0)
      fail(ErrorCode::kInvalidArgument, "{}: expected KEY=VALUE, not '{}'", flag, item);
    pairs.emplace_back(trim(item.substr(0, equals)), trim(item.substr(equals + 1)));
  }
  return pairs;
}

void BenchServeFlags::resolve() {
  if (backend == "vllm") backend = "openai";
  if (endpoint.empty()) endpoint = chat() ? "/v1/chat/completions" : "/v1/completions";
  if (!endpoint.starts_with('/')) endpoint.insert(0, "/");
  check_dataset(*this);
  check_ramp_up(*this);
  apply_general_lengths(*this);
  if (ramp_up_start_rps) arrivals.start_rps = *ramp_up_start_rps;
  if (ramp_up_end_rps) arrivals.end_rps = *ramp_up_end_rps;
  if (label.empty()) label = backend;
  const auto key = static_cast<uint64_t>(seed);
  random.seed = prefix_repetition.seed = arrivals.seed = key;
  random.count = prefix_repetition.count = num_prompts;
  prefix_repetition.shuffle = !disable_shuffle;
  token_source.as_text = chat();
  body.chat = chat();
  body.ignore_eos = ignore_eos || dataset_name == "random";
  url(), headers(), latency_metrics(), percentiles(), goodput_bounds();  // fail before anything is sent
  parse_pairs("--metadata", metadata);
}

ServerUrl BenchServeFlags::url() const {
  if (!base_url.empty()) return parse_server_url(base_url);
  ServerUrl url;
  url.host = host;
  url.port = std::to_string(port);
  return parse_server_url(url.text());
}

HeaderList BenchServeFlags::headers() const {
  HeaderList headers;
  if (const char* key = std::getenv("OPENAI_API_KEY"); key != nullptr && *key != '\0')
    headers.emplace_back("Authorization", std::string("Bearer ") + key);
  for (auto& pair : parse_pairs("--header", header)) headers.push_back(std::move(pair));
  return headers;
}

std::vector<std::string> BenchServeFlags::latency_metrics() const {
  const std::vector<std::string> known = latency_metric_names(),
                                 names = split_list("--percentile-metrics", percentile_metrics);
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      fail(ErrorCode::kInvalidArgument, "--percentile-metrics: '{}' is not one of {}", name,
           fmt::join(known, ", "));
  }
  return names;
}

std::vector<double> BenchServeFlags::percentiles() const {
  std::vector<double> values;
  for (const std::string& text : split_list("--metric-percentiles", metric_percentiles)) {
    values.push_back(parse_number("--metric-percentiles", text));
    if (values.back() < 0 || values.back() > 100)
      fail(ErrorCode::kInvalidArgument, "--metric-percentiles: {} is not between 0 and 100", text);
  }
  return values;
}

Goodput BenchServeFlags::goodput_bounds() const {
  Goodput bounds;
  for (const std::string& item : goodput) {
    const size_t colon = item.find(':');
    const std::string name = item.substr(0, colon);
    if (colon == std::string::npos || (name != "ttft" && name != "tpot" && name != "e2el"))
      fail(ErrorCode::kInvalidArgument, "--goodput: expected ttft:MS, tpot:MS or e2el:MS, not '{}'", item);
    const double bound = parse_number("--goodput", item.substr(colon + 1));
    if (bound < 0) fail(ErrorCode::kInvalidArgument, "--goodput {}: the bound must not be negative", item);
    (name == "ttft" ? bounds.ttft_ms : name == "tpot" ? bounds.tpot_ms : bounds.e2el_ms) = bound;
  }
  return bounds;
}

}  // namespace polylora
