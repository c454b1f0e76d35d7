// Any bytes as a GGUF model: container, metadata as config.json, vocabulary as tokenizer.json, every tensor.
#include "base/error.h"
#include "io/checkpoint.h"
#include "io_fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const polylora::FuzzFile file(data, size);
  try {
    const auto checkpoint = polylora::Checkpoint::open(file.path());
    std::vector<float> row;
    polylora::for_each_tensor(checkpoint->config(), [&](const polylora::TensorSpec& spec) {
      polylora::WeightSource source;
      checkpoint->append_rows(spec, source);
      row.resize(static_cast<size_t>(source.cols));
      for (const auto& stored : source.rows) stored.read(source.cols, row.data());
    });
  } catch (const polylora::Error&) {
  }
  return 0;
}
