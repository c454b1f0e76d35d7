// Another library's matrix product, to hold ours against. It comes from a module that lies beside the
// executable where that library was found at build time (bench/), so that the program itself never depends on
// it.
#pragma once

#include <cstdint>

namespace polylora {

/// y[M,N] = x[M,K] · wᵀ with w[N,K], prepared once: the weights already in the library's own layout.
struct ReferenceMatmul;

/// The module's one symbol, kMatmulReferenceSymbol, is an object of this type. Nothing but plain data crosses
/// over. All functions are called from one thread.
struct MatmulReference {
  const char* name;  // "oneDNN 2.6.3"
  /// To be called first, if at all: no instructions beyond AVX2 from here on.
  void (*limit_to_avx2)();
  /// y is f32. With `bf16`, x and w are rounded to it beforehand, else they are f32. Null where the library
  /// cannot do that here.
  ReferenceMatmul* (*prepare)(int64_t m, int64_t n, int64_t k, bool bf16, int threads);
  void (*run)(ReferenceMatmul* matmul);
  void (*destroy)(ReferenceMatmul* matmul);
};

inline constexpr const char* kMatmulReferenceSymbol = "polylora_matmul_reference";
inline constexpr const char* kMatmulReferenceFile = "matmul_reference.so";

/// Null when there is no module beside the executable. Throws kUnsupported when there is one that does not
/// load.
const MatmulReference* find_matmul_reference();

}  // namespace polylora
