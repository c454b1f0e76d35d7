// How many floating-point operations a training step takes: the yardstick for how fast it is.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "tune/train/micro_batch.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

/// Operations (a multiply-add is two) of forward and backward of one micro-batch, without recomputation:
/// linears forward and dx, logits of labelled rows forward and dx, LoRA pairs (three products each way),
/// attention's seven products over the keys that each query sees. Pointwise work is not counted.
double training_flops(const ModelConfig& config, const TrainableAdapter& trained, const MicroBatch& micro);

}  // namespace polylora
