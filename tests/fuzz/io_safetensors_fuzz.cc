// Any bytes as a safetensors file: read or refused with an Error.
#include "base/error.h"
#include "base/hash.h"
#include "io/safetensors.h"
#include "io_fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const polylora::FuzzFile file(data, size);
  try {
    const polylora::SafetensorsFile tensors(file.path());
    // Hashing touches every byte that a view claims.
    for (const auto& [name, tensor] : tensors.tensors()) polylora::hash_bytes(tensor.data);
  } catch (const polylora::Error&) {
  }
  return 0;
}
