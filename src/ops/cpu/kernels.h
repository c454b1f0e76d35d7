// What a kernel translation unit offers: plain functions on raw memory, no threads, no allocation.
//
// kernels_<isa>.cc compile the same text (kernels.inc.h) with different instruction sets; cpu_backend.cc
// picks one table at start. Nothing but plain data crosses this boundary: a function that both sides could
// inline (anything from a std header) might be emitted with wide instructions and then be linked into code
// that runs everywhere.
//
// Packed panels. A matrix w[N,K] is cut into panels of 16 rows; a panel is a stream of 64-byte rows, each
// holding for all 16 rows of w the next 4 bytes of K: 1 f32, 2 bf16, 4 q8 or 8 q4 (low nibbles are the first
// four). In q8 and q4 panels a 64-byte header precedes the rows it belongs to, so that a panel stays one
// sequential stream:
//   with minima   before every group of 32: f16 scale[16], f16 min[16]
//   symmetric     before every two groups: f16 scale[16] of the one, f16 scale[16] of the other
// i8 (adapters, ops/quant.h) has no scales: rows of 4 int8 + 128. N is padded with zero rows, K of bf16 and
// i8 with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/training_kernels.h"

namespace polylora::cpu {

inline constexpr int kLanes = 16;       // rows of w in a panel, and floats in the kernels' vector
inline constexpr int kRowBytes = 64;    // one row of a panel
inline constexpr int kGroup = 32;       // quantised values that share a scale
inline constexpr int kI8Group = 16;     // activations for i8 that share a scale
inline constexpr int kPageTokens = 16;  // tokens in a KV page: one vector of scores

inline constexpr float kTinyActivation = 1e-30f;  // int8 activation groups below this become zero

enum class PanelKind : uint8_t { kF32, kBf16, kQ8, kQ8Min, kQ4, kQ4Min, kI8 };
inline constexpr int kPanelKinds = 7;
inline constexpr int kI8ZeroPoint = 128;

/// y[rows, cols] (+)= x · wᵀ (+ bias). Element (m, n) is one chain of sums over ascending k, whatever `rows`
/// is.
struct GemmArgs {
  const std::byte* panels;  // the first panel; the next follow panel_bytes apart
  size_t panel_bytes;
  int64_t k;
  const std::byte* x;  // rows as narrow_<kind> wrote them
  size_t x_stride;     // bytes
  int64_t rows;
  float* y;
  int64_t y_stride;  // floats
  int64_t cols;
  const float* bias;  // null = none
  bool accumulate;    // y += instead of y =
};

/// A query token: where its heads are read and written, and what it sees.
struct AttentionQuery {
  const float* q;        // [H*E]
  float* o;              // [H*E]
  float* lse;            // [H]; null = not wanted
  const int32_t* pages;  // page of position p is pages[p / 16]
  int position;
};

/// Attention of some query tokens with all query heads of one or more kv heads. In memory a page has its kv
/// heads one after the other, each keys, then values:
///   f32   keys [E][16 tokens],      values [16 tokens][E]
///   bf16  keys [E/2][16 tokens][2], values [16/2 tokens][E][2]
///   int8  keys [E/4][16 tokens][4], scale f32[16 tokens], values [16/4 tokens][E][4], scale f32[16 tokens]
/// E padded to 16. An int8 element is scale * (byte - 128), scale = the token's largest magnitude / 127: a
/// token is quantised when it is written, by itself. Query rows (and probabilities, per block of pages) are
/// rounded to 15 bits then, products summed as integers.
struct AttentionArgs {
  const std::byte* pages_base;  // this layer's page 0, kv head 0
  size_t page_stride;           // bytes from page to page
  size_t head_stride;           // bytes from a page's kv head to the next
  size_t value_offset;          // bytes from a page's keys to its values
  int head_dim;
  int heads;  // query heads that share a kv head
  int kv_head_begin;
  int kv_head_end;
  const AttentionQuery* queries;  // by ascending position
  int tokens;                     // of queries; heads * kv heads * tokens <= kAttentionRows, or both are 1
  /// The queries' first pages are the same, and are read once for all of them: all pages (queries of one
  /// sequence), or some blocks of kAttentionPages that all queries see whole.
  int shared_pages;
  float scale;
  float softcap;       // 0 = none
  int window;          // 0 = none
  std::byte* scratch;  // scratch_bytes() of paged_attention.cc, 64-byte aligned
};
inline constexpr int kAllPages = 1 << 30;

/// A run of one kv head's tokens that lie in one page. What the page holds of others is kept.
struct KvWriteArgs {
  const float* key;
  int64_t key_stride;  // floats from token to token
  const float* value;
  int64_t value_stride;
  int head_dim;
  std::byte* page;      // the head's keys
  size_t value_offset;  // bytes from a page's keys to its values
  int token_begin;      // within the page
  int tokens;
};

/// Pages that attention takes in one step: a row's sums depend on nothing but this and its keys.
inline constexpr int kAttentionPages = 4;

/// Query rows (tokens × heads) of one tile: enough to reuse each key and value, few enough to stay in L1.
inline constexpr int kAttentionRows = 48;

/// Queries and keys of one block of attention's backward: the products' operands and results stay in L1.
inline constexpr int kAttentionBlock = 64;

/// One block of keys and values of a kv head, in the forms that the backward multiplies, one after the other:
///   keys [64][E padded to 16], keys transposed [E padded][64], values [64][E padded], as narrow_<kind> would
///   write them, zero where the sequence or the head ends.
struct AttentionKeysArgs {
  const float* k;
  int64_t k_stride;  // floats from token to token
  const float* v;
  int64_t v_stride;
  int head_dim;
  int tokens;      // 1 ..= kAttentionBlock
  std::byte* out;  // 64-byte aligned
};

/// Backward of a run of a sequence's queries, with all query heads that share one kv head. dq is written; dk
/// and dv are this run's share, written to [query_end rounded up to 64 - key_begin][E padded to 16].
struct AttentionBackwardArgs {
  const std::byte* keys;  // the sequence's blocks of this kv head, from key 0
  size_t block_bytes;     // from block to block
  int head_dim;
  int heads;         // adjacent in q, o, d_o, dq and lse
  int query_begin;   // a multiple of kAttentionBlock
  int query_end;     // a multiple of it, or the sequence's end
  int key_begin;     // a multiple of it: the block of the first key that query_begin sees
  const float* q;    // of the sequence's first token, as the other rows
  int64_t q_stride;  // floats from token to token
  const float* o;
  int64_t o_stride;
  const float* d_o;
  int64_t d_o_stride;
  const float* lse;
  int64_t lse_stride;
  float* dq;
  int64_t dq_stride;
  float* dk;
  float* dv;
  float scale;
  float softcap;       // 0 = none
  int window;          // 0 = none
  std::byte* scratch;  // scratch_bytes() of attention_backward.cc, 64-byte aligned
};

struct RmsnormArgs {
  float* y;
  float* sum;  // null = x alone is normalised
  const float* x;
  const float* delta;  // null with sum
  const float* gain;
  int64_t width;
  float eps;
};

enum class KvKind : uint8_t { kF32, kBf16, kInt8 };
inline constexpr int kKvKinds = 3;

/// What differs between page formats.
struct KvKernels {
  void (*attention)(const AttentionArgs& args);
  void (*write)(const KvWriteArgs& args);
};

struct Kernels {
  const char* description;

  void (*gemm[kPanelKinds])(const GemmArgs& args);

  // Activations as gemm wants them, one row of k floats at a time. `out` has narrow_bytes(kind, k).
  void (*narrow_f32)(std::byte* out, const float* x, int64_t k);
  void (*narrow_bf16)(std::byte* out, const float* x, int64_t k);
  void (*narrow_int8)(std::byte* out, const float* x, int64_t k, int zero_point);      // for kQ8, kQ4
  void (*narrow_int8_min)(std::byte* out, const float* x, int64_t k, int zero_point);  // for kQ8Min, kQ4Min
  void (*narrow_i8)(std::byte* out, const float* x, int64_t k);                        // for kI8
  size_t bf16_bytes;  // of one narrowed bf16 activation: 2 where the machine multiplies bf16, else 4 (f32)

  KvKernels kv[kKvKinds];
  void (*pack_attention_keys_f32)(const AttentionKeysArgs& args);
  void (*pack_attention_keys_bf16)(const AttentionKeysArgs& args);
  void (*attention_backward_f32)(const AttentionBackwardArgs& args);
  void (*attention_backward_bf16)(const AttentionBackwardArgs& args);

  void (*rmsnorm)(const RmsnormArgs& args);
  void (*add)(float* y, const float* x, int64_t n);                           // y += x
  void (*softcap)(float* y, int64_t n, float cap);                            // y = cap * tanh(y / cap)
  void (*silu_mul)(float* y, const float* gate, const float* up, int64_t n);  // y = silu(gate) * up
  void (*gelu_tanh_mul)(float* y, const float* gate, const float* up, int64_t n);
  void (*rope)(float* head, const float* cosine, const float* sine, int64_t half);

  TrainingKernels training;
};

const Kernels& generic_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

}  // namespace polylora::cpu
