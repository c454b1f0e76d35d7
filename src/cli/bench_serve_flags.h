// The flags of `polylora bench serve`: those of `vllm bench serve`.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/flag_set.h"
#include "load/arrivals.h"
#include "load/bench_prompts.h"
#include "load/load_metrics.h"
#include "load/load_run.h"
#include "load/request_bodies.h"

namespace polylora {

struct BenchServeFlags {
  // where to
  std::string backend = "openai";
  std::string base_url;  // wins over host and port
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string endpoint;  // empty: the backend's
  std::vector<std::string> header;
  bool insecure = false;
  int ready_check_timeout_sec = 0;

  // for whom
  std::string model;  // empty: the first that the server lists
  std::string served_model_name;
  std::string tokenizer;
  std::vector<std::string> lora_modules;
  std::string lora_assignment = "random";

  // what
  std::string dataset_name = "random";
  std::string dataset_path;
  int num_prompts = 1000;
  RandomPromptOptions random;
  PrefixRepetitionOptions prefix_repetition;
  std::optional<std::pair<int, int>> random_token_range;  // [first, second)
  int custom_output_len = 256;
  int sharegpt_output_len = -1;
  std::optional<int> input_len, output_len;
  bool disable_shuffle = false;
  bool no_oversample = false;
  bool ignore_eos = false;
  int seed = 0;
  std::string request_id_prefix;
  BodyOptions body;  // `extra`: sampling parameters and --extra-body

  // when
  ArrivalOptions arrivals;
  std::optional<int> ramp_up_start_rps, ramp_up_end_rps;
  int max_concurrency = 0;
  int num_warmups = 0;
  double probe_request_rate = 0;

  // and what becomes of it
  std::string percentile_metrics = "ttft,tpot,itl";
  std::string metric_percentiles = "99";
  std::vector<std::string> goodput;
  std::string label;
  bool save_result = false;
  bool save_detailed = false;
  bool append_result = false;
  std::string result_dir;
  std::string result_filename;
  std::vector<std::string> metadata;
  bool disable_tqdm = false;

  /// Checks what concerns several flags and derives the rest; throws kInvalidArgument.
  void resolve();

  bool chat() const { return backend == "openai-chat"; }
  ServerUrl url() const;
  HeaderList headers() const;  // with $OPENAI_API_KEY, unless a --header says otherwise
  std::vector<std::string> latency_metrics() const;
  std::vector<double> percentiles() const;
  Goodput goodput_bounds() const;
};

void add_bench_serve_flags(FlagSet& flags, BenchServeFlags& values);

/// "KEY=VALUE" items of `flag`, cut at the first '='. Throws kInvalidArgument.
HeaderList parse_pairs(const std::string& flag, const std::vector<std::string>& items);

}  // namespace polylora
