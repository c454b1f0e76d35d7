#include "cli/bench_model.h"

#include "base/error.h"
#include "io/json_file.h"
#include "model/random_model.h"

namespace polylora {
namespace {

struct Named {
  std::string_view name;
  WeightPolicy policy;
  WeightFormat format;
};

constexpr Named kDtypes[] = {{"bfloat16", WeightPolicy::kBf16, WeightFormat::kBf16},
                             {"float32", WeightPolicy::kF32, WeightFormat::kF32},
                             {"q8", WeightPolicy::kQ8, WeightFormat::kQ8},
                             {"q4", WeightPolicy::kQ4, WeightFormat::kQ4}};

const Named& named(const std::string& dtype) {
  for (const Named& entry : kDtypes) {
    if (entry.name == dtype) return entry;
  }
  fail(ErrorCode::kInvalidArgument, "--dtype {} is none of bfloat16, float32, q8, q4", dtype);
}

}  // namespace

void add_bench_model_flags(FlagSet& flags, BenchModelFlags& values) {
  flags.positional("model", values.model, "HF folder or .gguf file");
  flags.text("--random-config", values.random_config, "FILE",
             "config.json of a model to make up with random weights, instead of a model");
  flags.choice("--dtype", values.dtype, {"bfloat16", "float32", "q8", "q4"}, "how the base is held");
  flags.integer("--threads", values.threads, 0, "0: one per core");
}

WeightPolicy bench_model_policy(const BenchModelFlags& flags) {
  return named(flags.dtype).policy;
}

WeightFormat bench_model_format(const BenchModelFlags& flags) {
  return named(flags.dtype).format;
}

double peak_of(WeightFormat format, const Peaks& peaks) {
  switch (format) {
    case WeightFormat::kF32:
      return peaks.f32;
    case WeightFormat::kBf16:
      return peaks.bf16;
    default:
      return peaks.int8;
  }
}

std::unique_ptr<Model> load_bench_model(const BenchModelFlags& flags, Backend& backend) {
  if (flags.random_config.empty()) {
    if (flags.model.empty())
      fail(ErrorCode::kInvalidArgument, "give a model, or --random-config FILE to make one up");
    return load_model(*Checkpoint::open(flags.model), backend, bench_model_policy(flags));
  }
  const ModelConfig config = parse_model_config(read_json_file(flags.random_config), flags.random_config);
  return make_random_model(config, backend, bench_model_format(flags));
}

}  // namespace polylora
