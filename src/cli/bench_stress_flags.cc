#include "cli/bench_stress_flags.h"

#include <charconv>

#include "base/error.h"
#include "cli/values.h"

namespace polylora {
namespace {

int parse_positive(const std::string& flag, const std::string& text, int largest) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > largest)
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a whole number from 1 to {}", flag, text, largest);
  return value;
}

void numbers(FlagSet& flags, const std::string& name, std::vector<int>& values, int largest,
             const std::string& help) {
  flags.custom(name, "N,N,...", help, fmt::format("{}", fmt::join(values, ",")),
               [&values, name, largest](const std::string& text) {
                 values.clear();
                 for (const std::string& part : split_list(name, text))
                   values.push_back(parse_positive(name, part, largest));
               });
}

void words(FlagSet& flags, const std::string& name, std::vector<std::string>& values,
           const std::string& metavar, const std::string& help) {
  flags.custom(name, metavar, help, fmt::format("{}", fmt::join(values, ",")),
               [&values, name](const std::string& text) { values = split_list(name, text); });
}

void add_servers(FlagSet& flags, BenchStressFlags& values) {
  flags.positional("model", values.model, "a Hugging Face folder or a .gguf file: the base");
  flags.group("Servers");
  flags.list("--lora-modules", values.lora_modules, "ITEM",
             "adapters, as for serve; random ones are made up where a cell needs more");
  flags.text("--merged", values.merged, "PATH", "the merged model to compare with (default: exported)");
  flags.text("--lora-memory", values.lora_memory, "BYTES", "memory for adapters (default: serve's)");
  flags.text(
      "--work-dir", values.work_dir, "DIR",
      "for adapters, merged model and the servers' logs, which stay there (default: a temporary folder)");
}

void add_grid(FlagSet& flags, BenchStressFlags& values) {
  flags.group("Grid");
  words(flags, "--popularity", values.popularity, "LIST",
        "how requests choose adapters: one, identical, uniform, zipf, distinct");
  numbers(flags, "--adapters", values.adapters, 10'000, "how many there are to choose from");
  words(flags, "--ranks", values.ranks, "LIST",
        "of made-up adapters: numbers, or mixed for 8, 16 and 64 in turn");
  numbers(flags, "--concurrency", values.concurrency, 10'000, "requests that run at a time");
  flags.toggle("--churn", values.churn,
               "run every cell a second time, loading, reloading and unloading adapters meanwhile");
  flags.number("--churn-interval", values.churn_interval, "seconds between two such calls");
}

void add_load(FlagSet& flags, BenchStressFlags& values) {
  flags.group("Load");
  flags.integer("--rounds", values.rounds, 1, "of both servers in turn, for every cell");
  flags.integer("--input-len", values.input_len, 1, "tokens of a prompt");
  flags.integer("--output-len", values.output_len, 1, "tokens of its output");
  flags.integer("--num-prompts", values.num_prompts, 0, "requests of a round; 0: twice the concurrency");
  flags.integer("--seed", values.seed, 0, "of prompts and choices");
}

void add_results(FlagSet& flags, BenchStressFlags& values) {
  flags.group("Results");
  flags.list("--min-ratio", values.min_ratio, "[CELL=]X",
             "smallest ratio to merged, of all cells or of one (distinct/16/r16/c16=0.65; any part may be "
             "*); the last "
             "that matches counts; below: exit status 1");
  flags.list("--max-ttft-p99-ms", values.max_ttft_p99_ms, "[CELL=]X",
             "likewise, the largest time to the first token");
  flags.text("--json", values.json, "FILE", "write the results there");
  flags.text("--html", values.html, "FILE", "write a report there, one page with plots");
}

}  // namespace

StressGrid BenchStressFlags::grid(int given) const {
  StressGrid grid;
  for (const std::string& name : popularity)
    grid.popularity.push_back(parse_popularity("--popularity", name));
  for (const std::string& rank : ranks) {
    const bool mixed = rank == "mixed";
    grid.ranks.push_back(mixed ? rank : fmt::format("r{}", parse_positive("--ranks", rank, 4096)));
  }
  grid.adapters = adapters;
  grid.concurrency = concurrency;
  grid.churn = churn;
  grid.given = given;
  return grid;
}

StressLimits BenchStressFlags::limits() const {
  StressLimits limits;
  for (const std::string& text : min_ratio) limits.min_ratio.push_back(parse_cell_limit("--min-ratio", text));
  for (const std::string& text : max_ttft_p99_ms)
    limits.max_ttft_p99_ms.push_back(parse_cell_limit("--max-ttft-p99-ms", text));
  return limits;
}

void add_bench_stress_flags(FlagSet& flags, BenchStressFlags& values) {
  add_servers(flags, values);
  add_grid(flags, values);
  add_load(flags, values);
  add_results(flags, values);
}

}  // namespace polylora
