// oneDNN's matmul as the module that `polylora bench kernels` looks for (cli/matmul_reference.h).
#include <omp.h>

#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "cli/matmul_reference.h"

namespace polylora {

struct ReferenceMatmul {
  dnnl::matmul product;
  std::unordered_map<int, dnnl::memory> arguments;
  int threads;
};

namespace {

using dnnl::memory;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  static dnnl::stream stream(cpu());
  return stream;
}

/// Small values in f32, as `wanted` has them. The library brings them into its layout and type.
memory filled(const memory::desc& plain, const memory::desc& wanted) {
  memory from(plain, cpu());
  auto* values = static_cast<float*>(from.get_data_handle());
  const size_t count = plain.get_size() / sizeof(float);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 17) * 0.01f;
  memory to(wanted, cpu());
  dnnl::reorder(from, to).execute(stream(), from, to);
  stream().wait();
  return to;
}

ReferenceMatmul* prepare_or_throw(int64_t m, int64_t n, int64_t k, bool bf16, int threads) {
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  omp_set_num_threads(threads);
  const Type type = bf16 ? Type::bf16 : Type::f32;
  const memory::desc x({m, k}, type, Tag::ab), y({m, n}, Type::f32, Tag::ab);
  const memory::desc any_weights({k, n}, type, Tag::any);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, any_weights, y), cpu());
  const memory source = filled({{m, k}, Type::f32, Tag::ab}, description.src_desc());
  const memory weights = filled({{k, n}, Type::f32, Tag::ba}, description.weights_desc());
  const memory result(description.dst_desc(), cpu());
  return new ReferenceMatmul{dnnl::matmul(description),
                             {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, result}},
                             threads};
}

ReferenceMatmul* prepare(int64_t m, int64_t n, int64_t k, bool bf16, int threads) {
  try {
    return prepare_or_throw(m, n, k, bf16, threads);
  } catch (const dnnl::error&) {
    return nullptr;
  }
}

void run(ReferenceMatmul* matmul) {
  omp_set_num_threads(matmul->threads);
  matmul->product.execute(stream(), matmul->arguments);
  stream().wait();
}

void destroy(ReferenceMatmul* matmul) {
  delete matmul;
}

void limit_to_avx2() {
  dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
}

const std::string& name() {
  static const std::string name = [] {
    const dnnl_version_t* version = dnnl_version();
    return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
           std::to_string(version->patch);
  }();
  return name;
}

}  // namespace
}  // namespace polylora

extern "C" const polylora::MatmulReference polylora_matmul_reference;
const polylora::MatmulReference polylora_matmul_reference = {
    polylora::name().c_str(), polylora::limit_to_avx2, polylora::prepare, polylora::run, polylora::destroy};
