#include "load/arrivals.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"
#include "load/random_stream.h"

namespace polylora {
namespace {

constexpr uint64_t kArrivalStream = 0x61727269;  // apart from the streams of prompts

double rate_at(const ArrivalOptions& options, size_t index, size_t count) {
  const double progress = static_cast<double>(index) / static_cast<double>(std::max<size_t>(count - 1, 1));
  switch (options.ramp_up) {
    case RampUp::kLinear:
      return options.start_rps + (options.end_rps - options.start_rps) * progress;
    case RampUp::kExponential:
      return options.start_rps * std::pow(options.end_rps / options.start_rps, progress);
    default:
      return options.request_rate;
  }
}

/// Seconds between a request and the one before it.
double gap(const ArrivalOptions& options, double rate, RandomStream& random) {
  if (!(rate > 0)) fail(ErrorCode::kInvalidArgument, "the request rate must be above 0, not {}", rate);
  if (std::isinf(rate)) return 0;
  if (std::isinf(options.burstiness)) return 1 / rate;
  return std::gamma_distribution<double>(options.burstiness, 1 / (rate * options.burstiness))(random);
}

}  // namespace

std::vector<double> arrival_times(const ArrivalOptions& options, size_t count) {
  if (!(options.burstiness > 0))
    fail(ErrorCode::kInvalidArgument, "the burstiness must be above 0, not {}", options.burstiness);
  RandomStream random(options.seed, kArrivalStream);
  std::vector<double> times;
  double now = 0;
  for (size_t i = 0; i < count; ++i) times.push_back(now += gap(options, rate_at(options, i, count), random));
  if (options.ramp_up == RampUp::kNone && now > 0) {
    const double stretch = static_cast<double>(count) / options.request_rate / now;
    for (double& time : times) time *= stretch;
  }
  return times;
}

}  // namespace polylora
