#include "ops/cpu/cpu_backend.h"

#include "ops/ref_backend.h"

namespace polylora {

std::vector<std::string_view> available_isas() { return {"generic"}; }

std::unique_ptr<Backend> make_cpu_backend(std::string_view, int) { return make_ref_backend(); }

}  // namespace polylora
