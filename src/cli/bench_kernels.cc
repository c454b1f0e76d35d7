// polylora bench kernels: every op beside what this machine can do at best.
#include "cli/bench_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <sstream>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "load/load_metrics.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kProbeBytes = int64_t{256} << 20;
constexpr double kTurnSeconds = 0.02;
constexpr size_t kLeastTurns = 3;
/// Between turns: until the threads of the one before have stopped spinning for more work.
constexpr auto kPause = std::chrono::milliseconds(3);

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Instructions instructions_of(const Backend& backend) {
  const std::string description = backend.description();
  if (description.find("avx512") != std::string::npos) return Instructions::kAvx512;
  return description.find("avx2") != std::string::npos ? Instructions::kAvx2 : Instructions::kNone;
}

const char* name_of(double Peaks::*peak) {
  if (peak == &Peaks::bf16) return "bf16 peak";
  return peak == &Peaks::int8 ? "int8 peak" : "f32 peak";
}

/// The least that a call can take.
struct Limit {
  double moving;     // seconds
  double computing;  // seconds; 0 where the peak is unknown

  Limit(const Figure& figure, const Yardsticks& machine)
      : moving(figure.bytes / machine.read_bandwidth * 1e-9), computing(0) {
    const double peak = machine.peaks.*figure.peak;
    if (peak > 0) computing = figure.operations / peak * 1e-9;
  }
  bool moves() const { return moving >= computing; }
  double seconds() const { return std::max(moving, computing); }
};

}  // namespace

/// The calls of one figure so far.
class FigureTimes {
 public:
  explicit FigureTimes(const Figure& figure) : figure_(figure) {}

  /// A call that does not count, then as many as fit.
  void turn(const Yardsticks& machine, double seconds) {
    std::vector<double> calls;
    figure_.run(call_++);
    const Clock::time_point start = Clock::now();
    do {
      const Clock::time_point begin = Clock::now();
      figure_.run(call_++);
      calls.push_back(seconds_since(begin));
    } while (seconds_since(start) < seconds);
    const Limit limit(figure_, machine);
    shares_.push_back(limit.seconds() / polylora::median(calls));
    turns_that_move_ += limit.moves() ? 1 : 0;
    calls_.insert(calls_.end(), calls.begin(), calls.end());
    reads_.push_back(machine.read_bandwidth);
    peaks_.push_back(machine.peaks.*figure_.peak);
  }

  size_t turns() const { return shares_.size(); }
  double best() const { return *std::min_element(calls_.begin(), calls_.end()); }
  double median() const { return polylora::median(calls_); }
  /// Of the limit, in the median turn.
  double share() const { return polylora::median(shares_); }
  bool moves() const { return 2 * turns_that_move_ >= shares_.size(); }
  double read_bandwidth() const { return polylora::median(reads_); }
  double peak() const { return polylora::median(peaks_); }

 private:
  const Figure& figure_;
  int call_ = 0;
  std::vector<double> calls_;
  std::vector<double> shares_, reads_, peaks_;  // a value for each turn
  size_t turns_that_move_ = 0;
};

RandomMatrix::RandomMatrix(int64_t rows, int64_t cols)
    : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {
  constexpr size_t kDistinct = 4093;  // enough, and quicker than drawing them all
  for (size_t i = 0; i < values_.size(); ++i)
    values_[i] = i < kDistinct ? static_cast<float>(random_uniform(1, 0, i)) - 0.5f : values_[i - kDistinct];
}

KernelBench::KernelBench(const KernelBenchOptions& options)
    : options_(options),
      backend_(make_training_backend({.name = "cpu", .threads = options.threads})),
      pool_(options.threads),
      reads_(kProbeBytes) {
  fmt::print("{}\n", backend_->description());
}

bool KernelBench::computes_with_avx2() const {
  return instructions_of(*backend_) == Instructions::kAvx2;
}

void KernelBench::begin_group(const std::string& title) {
  group_ = title;
  fmt::print("\n{}\n{:22} {:34} {:>10} {:>9} {:>8} {:5} {:>4} {:9} {:>7}\n", title, "op", "shape",
             "median us", "best us", "rate", "", "%", "of limit", "limit");
  std::fflush(stdout);
}

std::vector<double> KernelBench::measure(const std::vector<Figure>& figures) {
  std::vector<FigureTimes> times(figures.begin(), figures.end());
  const double turn_seconds = std::min(kTurnSeconds, options_.seconds);
  const auto turns = std::max(kLeastTurns, static_cast<size_t>(options_.seconds / turn_seconds));
  const Clock::time_point start = Clock::now();
  while (times.front().turns() < turns &&
         (times.front().turns() < kLeastTurns || seconds_since(start) < 10 * options_.seconds)) {
    std::this_thread::sleep_for(kPause);
    const Yardsticks machine{reads_.bandwidth(pool_, 1), measure_peaks(pool_, instructions_of(*backend_), 3)};
    for (FigureTimes& figure : times) {
      std::this_thread::sleep_for(kPause);
      figure.turn(machine, turn_seconds);
    }
  }
  std::vector<double> medians;
  for (size_t i = 0; i < figures.size(); ++i) {
    medians.push_back(times[i].median());
    print(figures[i], times[i]);
  }
  return medians;
}

void KernelBench::print(const Figure& figure, const FigureTimes& times) {
  const double rate = (times.moves() ? figure.bytes : figure.operations) / times.median() * 1e-9;
  const char* limit = times.moves() ? "read" : name_of(figure.peak);
  fmt::print("{:22} {:34} {:10.1f} {:9.1f} {:8.1f} {:5} {:4.0f} {:9} {:7.1f}\n", figure.op, figure.shape,
             times.median() * 1e6, times.best() * 1e6, rate, times.moves() ? "GB/s" : "Gop/s",
             100 * times.share(), limit, times.moves() ? times.read_bandwidth() : times.peak());
  std::fflush(stdout);
  figures_.push_back({{"group", group_},
                      {"op", figure.op},
                      {"shape", figure.shape},
                      {"median_seconds", times.median()},
                      {"best_seconds", times.best()},
                      {"bytes", figure.bytes},
                      {"operations", figure.operations},
                      {"limit", limit},
                      {"percent_of_limit", 100 * times.share()},
                      {"read_gb_per_second", times.read_bandwidth()},
                      {"peak_gop_per_second", times.peak()}});
}

void KernelBench::note(const std::string& text) {
  fmt::print("{}\n", text);
}

nlohmann::ordered_json KernelBench::results() const {
  return {{"backend", backend_->description()}, {"threads", threads()}, {"figures", figures_}};
}

namespace {

struct Group {
  std::string_view name;
  void (*run)(KernelBench& bench);
};
constexpr Group kGroups[] = {
    {"linear", bench_linear},       {"reference", bench_reference}, {"lora", bench_lora},
    {"attention", bench_attention}, {"pointwise", bench_pointwise}, {"pack", bench_pack},
    {"training", bench_training},
};

const Group& group_named(const std::string& name) {
  std::string names;
  for (const Group& group : kGroups) {
    if (group.name == name) return group;
    fmt::format_to(std::back_inserter(names), " {}", group.name);
  }
  fail(ErrorCode::kInvalidArgument, "bench kernels: --only: there is no group '{}'; there are:{}", name,
       names);
}

/// What `--only a,b` names; all when it is empty.
std::vector<Group> chosen_groups(const std::string& only) {
  if (only.empty()) return {std::begin(kGroups), std::end(kGroups)};
  std::vector<Group> groups;
  std::istringstream names(only);
  for (std::string name; std::getline(names, name, ',');) groups.push_back(group_named(name));
  return groups;
}

}  // namespace

int run_bench_kernels(const Arguments& arguments) {
  KernelBenchOptions options;
  std::string only, json;
  FlagSet flags("bench kernels", "Times every op, beside the read bandwidth and the peak of this machine.");
  flags.text("--only", only, "GROUP[,GROUP]",
             "linear, reference, lora, attention, pointwise, pack, training (default: all)");
  flags.number("--seconds", options.seconds, "time for each figure");
  flags.integer("--threads", options.threads, 0, "0: one per core");
  flags.text("--json", json, "FILE", "write the figures there too");
  if (!flags.parse(arguments)) return 0;
  if (options.seconds <= 0)
    fail(ErrorCode::kInvalidArgument, "bench kernels: --seconds {} must be above 0", options.seconds);
  const std::vector<Group> groups = chosen_groups(only);
  KernelBench bench(options);
  for (const Group& group : groups) group.run(bench);
  if (!json.empty()) write_file_atomic(json, bench.results().dump(2) + "\n");
  return 0;
}

}  // namespace polylora
