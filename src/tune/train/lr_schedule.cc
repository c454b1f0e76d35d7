#include "tune/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace polylora {
namespace {

double cosine(double progress, double cycles) {
  return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * cycles * 2.0 * progress)));
}

double after_warmup(LrSchedule schedule, const LrScheduleOptions& options, double base_lr, int64_t step,
                    int64_t warmup_steps, int64_t total_steps) {
  const auto done = static_cast<double>(step - warmup_steps);
  const double progress = done / static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  switch (schedule) {
    case LrSchedule::kConstant:
    case LrSchedule::kConstantWithWarmup:
      return 1.0;
    case LrSchedule::kLinear:
      return std::max(0.0, 1.0 - progress);
    case LrSchedule::kCosine:
      return cosine(progress, options.num_cycles < 0 ? 0.5 : options.num_cycles);
    case LrSchedule::kCosineWithRestarts: {
      if (progress >= 1.0) return 0.0;
      const double turns = (options.num_cycles < 0 ? 1.0 : options.num_cycles) * progress;
      return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * (turns - std::floor(turns)))));
    }
    case LrSchedule::kCosineWithMinLr: {
      const double floor = options.min_lr_rate >= 0 ? options.min_lr_rate : options.min_lr / base_lr;
      const double factor = cosine(progress, options.num_cycles < 0 ? 0.5 : options.num_cycles);
      return std::max(0.0, factor * (1.0 - floor) + floor);
    }
    case LrSchedule::kPolynomial: {
      const double end = options.lr_end / base_lr;
      return progress >= 1.0 ? end : (1.0 - end) * std::pow(1.0 - progress, options.power) + end;
    }
    case LrSchedule::kInverseSqrt: {
      const double timescale = warmup_steps > 0 ? static_cast<double>(warmup_steps) : 10000.0;
      const double shift = timescale - static_cast<double>(warmup_steps);
      return 1.0 / std::sqrt((static_cast<double>(step) + shift) / timescale);
    }
  }
  return 1.0;
}

}  // namespace

double lr_factor(LrSchedule schedule, const LrScheduleOptions& options, double base_lr, int64_t step,
                 int64_t warmup_steps, int64_t total_steps) {
  if (schedule != LrSchedule::kConstant && step < warmup_steps)
    return static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_steps));
  return after_warmup(schedule, options, base_lr, step, warmup_steps, total_steps);
}

}  // namespace polylora
