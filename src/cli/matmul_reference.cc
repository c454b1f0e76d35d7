#include "cli/matmul_reference.h"

#include <dlfcn.h>

#include <filesystem>

#include "base/error.h"

namespace polylora {

const MatmulReference* find_matmul_reference() {
  namespace fs = std::filesystem;
  const fs::path file = fs::read_symlink("/proc/self/exe").parent_path() / kMatmulReferenceFile;
  if (!fs::exists(file)) return nullptr;
  void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: its threads live on
  const void* symbol = module == nullptr ? nullptr : dlsym(module, kMatmulReferenceSymbol);
  if (symbol == nullptr) fail(ErrorCode::kUnsupported, "{} does not load: {}", file.string(), dlerror());
  return static_cast<const MatmulReference*>(symbol);
}

}  // namespace polylora
