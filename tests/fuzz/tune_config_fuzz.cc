// libFuzzer: a training or export configuration. The first byte says which of the two; what follows a line
// "---8<---" is one override a line. Error or success only.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io_fuzz_file.h"
#include "tune/config/train_config.h"

namespace {

constexpr std::string_view kCut = "\n---8<---\n";

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t cut = text.find(kCut);
  const std::string_view yaml = text.substr(0, cut);
  const polylora::FuzzFile file(reinterpret_cast<const uint8_t*>(yaml.data()), yaml.size());
  std::vector<std::string> overrides;
  if (cut != std::string_view::npos) overrides = lines_of(text.substr(cut + kCut.size()));
  try {
    if (data[0] % 2 == 0) {
      polylora::read_train_config(file.path(), overrides);
    } else {
      polylora::read_export_config(file.path(), overrides);
    }
  } catch (const polylora::Error& error) {
    if (error.code() == polylora::ErrorCode::kInternal) __builtin_trap();
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) __builtin_trap();
  }
  return 0;
}
