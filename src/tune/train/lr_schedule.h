// Learning-rate schedules, as transformers' optimization.py defines them.
#pragma once

#include <cstdint>

#include "tune/config/train_config.h"

namespace polylora {

/// What the base learning rate is multiplied with in update `step`, counted from 0. Warm-up starts at 0: the
/// first of W warm-up updates has factor 0.
double lr_factor(LrSchedule schedule, const LrScheduleOptions& options, double base_lr, int64_t step,
                 int64_t warmup_steps, int64_t total_steps);

}  // namespace polylora
