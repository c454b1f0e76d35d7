// When each request of a load run is sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace polylora {

enum class RampUp : uint8_t { kNone, kLinear, kExponential };

struct ArrivalOptions {
  double request_rate = std::numeric_limits<double>::infinity();  // requests/s; infinity: all at once
  double burstiness =
      1;  // shape of the gamma distribution of the gaps: 1 Poisson, below more bursty, above evener
  RampUp ramp_up =
      RampUp::kNone;  // otherwise the rate goes from start to end, and request_rate has no effect
  double start_rps = 0;
  double end_rps = 0;
  uint64_t seed = 0;
};

/// Seconds after the start at which each of `count` requests arrives, ascending. Without ramp-up the gaps are
/// stretched so that the last one arrives at count / request_rate. Throws kInvalidArgument for a rate or
/// burstiness that is not positive.
std::vector<double> arrival_times(const ArrivalOptions& options, size_t count);

}  // namespace polylora
