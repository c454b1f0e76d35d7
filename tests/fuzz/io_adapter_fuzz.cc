// A PEFT folder: the input up to its first NUL is adapter_config.json, the rest adapter_model.safetensors.
#include "fuzz_adapter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  static const FuzzFolder folder("io_adapter_fuzz");
  as_adapter_folder(folder, "adapter_model.safetensors", {data, size}, load_adapter);
  return 0;
}
