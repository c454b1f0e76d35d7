// The table of all kernels, the last thing that each kernels_<isa>.cc includes.

namespace polylora::cpu {
namespace {

constexpr Kernels kKernels = {
    .description = kIsaDescription,
    .gemm = {gemm<FloatTile<F32>>, gemm<FloatTile<Bf16>>, gemm<QuantTile<false, false>>,
             gemm<QuantTile<false, true>>, gemm<QuantTile<true, false>>, gemm<QuantTile<true, true>>},
    .narrow_f32 = narrow<F32>,
    .narrow_bf16 = narrow<Bf16>,
    .narrow_int8 = narrow_int8<false>,
    .narrow_int8_min = narrow_int8<true>,
    .bf16_bytes = kBf16Bytes,
    .attention_f32 = attention<F32>,
    .attention_bf16 = attention<Bf16>,
    .pack_attention_keys_f32 = pack_attention_keys<F32>,
    .pack_attention_keys_bf16 = pack_attention_keys<Bf16>,
    .attention_backward_f32 = attention_backward<F32>,
    .attention_backward_bf16 = attention_backward<Bf16>,
    .rmsnorm = rmsnorm,
    .add = add_to,
    .silu_mul = silu_mul,
    .gelu_tanh_mul = gelu_tanh_mul,
    .rope = rope,
    .training = kTrainingKernels,
};

}  // namespace
}  // namespace polylora::cpu
