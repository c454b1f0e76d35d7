#include "ops/cpu/kernels.h"
#include "ops/cpu/simd_avx2.h"
// clang-format off
#include "ops/cpu/kernels.inc.h"
// clang-format on

namespace polylora::cpu {

const Kernels& avx2_kernels() {
  return kKernels;
}

}  // namespace polylora::cpu
