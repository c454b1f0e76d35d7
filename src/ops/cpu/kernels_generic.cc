#include "ops/cpu/kernels.h"
#include "ops/cpu/simd_generic.h"
// clang-format off
#include "ops/cpu/kernels.inc.h"
// clang-format on

namespace polylora::cpu {

const Kernels& generic_kernels() {
  return kKernels;
}

}  // namespace polylora::cpu
