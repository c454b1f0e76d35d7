// polylora verify: measures that a merged model does what base and adapter did.
#include "tune/merge/verify.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "cli/console.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

struct VerifyFlags {
  VerifyOptions options;
  std::string base, adapter, merged, out;
};

void add_flags(FlagSet& flags, VerifyFlags& values) {
  VerifyOptions& options = values.options;
  flags.positional("base", values.base, "base model: a Hugging Face folder or a .gguf file");
  flags.positional("adapter", values.adapter, "adapter folder");
  flags.positional("merged", values.merged, "merged model: a folder or a .gguf file");
  flags.group("Options");
  flags.integer("--prompts", options.prompts, 1, "token sequences to run");
  flags.integer("--tokens", options.tokens, 1, "positions to compare in each");
  flags.choice("--dtype", options.dtype, {"bfloat16", "float32"}, "what to compute in");
  flags.number("--tolerance", options.tolerance,
               "largest mean KL divergence, in nats, that counts as agreement; rounding to bfloat16 costs "
               "about 0.001, another adapter 0.1 and more");
  flags.integer("--threads", options.backend.threads, 0, "0: one per core");
  flags.text("--out", values.out, "FILE",
             "where to write the result (default: verify.json beside the merged model)");
}

fs::path output_path(const VerifyFlags& values) {
  if (!values.out.empty()) return values.out;
  const fs::path merged = values.merged;
  return (fs::is_directory(merged) ? merged : merged.parent_path()) / "verify.json";
}

void print_row(std::string_view name, const Distance& distance) {
  fmt::print("{:<20}{:>14.5f}{:>14.3e}{:>14.3e}{:>12.1f} %\n", name, distance.max_logit_difference,
             distance.mean_kl, distance.max_kl, 100 * distance.greedy_agreement);
}

void print_table(const VerifyReport& report) {
  fmt::print("{:<20}{:>14}{:>14}{:>14}{:>14}\n", "adapter against", "max |Δlogit|", "mean KL", "max KL",
             "same token");
  print_row("merged", report.merged);
  print_row("base alone", report.base);
}

}  // namespace

int run_verify(const Arguments& arguments) {
  VerifyFlags values;
  FlagSet flags("verify",
                "Compares a merged model with its base and adapter, on the logits of some sequences.");
  add_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  if (values.base.empty() || values.adapter.empty() || values.merged.empty())
    fail(ErrorCode::kInvalidArgument, "verify takes three paths: polylora verify BASE ADAPTER MERGED");
  values.options.base = values.base;
  values.options.adapter = values.adapter;
  values.options.merged = values.merged;
  VerifyReport report;
  {
    ProgressBar bar;
    report = verify_merge(values.options, bar.callback());
  }
  print_table(report);
  write_file_atomic(output_path(values), verify_json(values.options, report).dump(2) + "\n");
  fmt::print("{} positions: the merged model {}\n", report.positions,
             report.agrees ? "agrees with its adapter" : "does NOT do what its adapter does");
  return report.agrees ? 0 : 1;
}

}  // namespace polylora
