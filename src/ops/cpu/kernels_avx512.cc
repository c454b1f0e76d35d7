#include "ops/cpu/kernels.h"
#include "ops/cpu/simd_avx512.h"
// clang-format off
#include "ops/cpu/kernels.inc.h"
// clang-format on

namespace polylora::cpu {

const Kernels& avx512_kernels() {
  return kKernels;
}

}  // namespace polylora::cpu
