// The kernels of training, but for attention's. Part of kernels.inc.h, inside its namespace.

// --- panels made on the fly
// -------------------------------------------------------------------------------------

/// How 16 columns of 16 rows of a packed matrix are read: as 8 panel rows of bf16, [k/2][16 n][2].
using Bf16Block = Row[kLanes / 2];

struct Bf16Reader {
  POLYLORA_INLINE static void read(Bf16Block& block, const TransposeArgs& a, const std::byte* panel,
                                   int64_t k) {
    const int64_t steps = (a.k + 1) / 2;
    const std::byte* row = panel + k / 2 * kRowBytes;
    if (k / 2 + kLanes / 2 <= steps) {
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) block[i] = load_row(row + i * kRowBytes);
      return;
    }
    for (int i = 0; i < kLanes / 2; ++i)
      block[i] = k / 2 + i < steps ? load_row(row + i * kRowBytes) : zero_row();
  }
  static constexpr int64_t kBytes = kLanes / 2 * kRowBytes;  // of a block in its panel
  POLYLORA_INLINE static size_t offset(const TransposeArgs&, int64_t k) {
    return static_cast<size_t>(k / 2 * kRowBytes);
  }
};

template <bool kNibbles, bool kMin>
struct QuantReader {
  struct Group {
    Vec scale, min;
    IVec zero;
    POLYLORA_INLINE Vec value(IVec q) const { return add(mul(scale, to_float(iadd(q, zero))), min); }
  };

  using Layout = QuantLayout<kNibbles, kMin>;
  static constexpr int64_t kPerRow = kNibbles ? 8 : 4;  // values of one lane in a 64-byte row
  static constexpr int64_t kBytes = kLanes / kPerRow * kRowBytes;

  POLYLORA_INLINE static size_t offset(const TransposeArgs&, int64_t k) {
    return static_cast<size_t>(Layout::rows_at(k / kGroup) + k % kGroup / kPerRow * kRowBytes);
  }

  POLYLORA_INLINE static void read(Bf16Block& block, const TransposeArgs& a, const std::byte* panel,
                                   int64_t k) {
    if (k >= a.k) {  // K is a multiple of 32: a block is all there or not at all
      for (int i = 0; i < kLanes / 2; ++i) block[i] = zero_row();
      return;
    }
    const std::byte* scales = panel + Layout::scales_at(k / kGroup);
    const Vec scale = load_f16(scales);
    Vec min = splat(0.0f);
    if constexpr (kMin) min = load_f16(scales + 32);
    const Group group{scale, min, isplat(-a.zero_point)};
    const std::byte* row = panel + offset(a, k);
#pragma GCC unroll 4
    for (int i = 0; i < kLanes / 4; ++i) {
      Row bytes = load_row(row + i * 4 / kPerRow * kRowBytes);
      if constexpr (kNibbles) bytes = i % 2 == 0 ? low_nibbles(bytes) : high_nibbles(bytes);
      block[2 * i] = pack_bf16(group.value(byte_of<0>(bytes)), group.value(byte_of<1>(bytes)));
      block[2 * i + 1] = pack_bf16(group.value(byte_of<2>(bytes)), group.value(byte_of<3>(bytes)));
    }
  }
};

/// Pieces of w lie panel_bytes apart, which no hardware prefetcher follows: panels this many ahead are asked
/// for.
constexpr int64_t kTransposeAhead = 6;

template <class Reader>
POLYLORA_INLINE void prefetch_piece(const TransposeArgs& a, const std::byte* panel) {
  const std::byte* piece = panel + kTransposeAhead * static_cast<int64_t>(a.panel_bytes) +
                           static_cast<int64_t>(Reader::offset(a, a.k_begin));
  for (int64_t i = 0; i < a.k_panels * Reader::kBytes; i += kRowBytes) __builtin_prefetch(piece + i);
}

template <class Reader>
void transpose_to_bf16(const TransposeArgs& a) {
  for (int64_t j = 0; j < a.n_panels; ++j) {
    const std::byte* panel = a.panels + static_cast<size_t>(j) * a.panel_bytes;
    prefetch_piece<Reader>(a, panel);
    for (int64_t p = 0; p < a.k_panels; ++p) {
      Bf16Block block;
      Reader::read(block, a, panel, a.k_begin + p * kLanes);
      transpose_pairs(block);
      std::byte* out = a.out + static_cast<size_t>(p) * a.out_stride + j * kLanes / 2 * kRowBytes;
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) store_row(out + i * kRowBytes, block[i]);
    }
  }
}

struct F32Reader {
  static constexpr int64_t kBytes = kLanes * kRowBytes;
  POLYLORA_INLINE static size_t offset(const TransposeArgs&, int64_t k) {
    return static_cast<size_t>(k * kRowBytes);
  }
};

void transpose_f32(const TransposeArgs& a) {
  for (int64_t j = 0; j < a.n_panels; ++j) {
    const std::byte* panel = a.panels + static_cast<size_t>(j) * a.panel_bytes;
    prefetch_piece<F32Reader>(a, panel);
    for (int64_t p = 0; p < a.k_panels; ++p) {
      const int64_t k = a.k_begin + p * kLanes;
      const auto* in = reinterpret_cast<const float*>(panel) + k * kLanes;
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = k + i < a.k ? load(in + i * kLanes) : splat(0.0f);
      transpose(block);
      std::byte* bytes = a.out + static_cast<size_t>(p) * a.out_stride + j * kLanes * kRowBytes;
      auto* out = reinterpret_cast<float*>(bytes);
      for (int i = 0; i < kLanes; ++i) store(out + i * kLanes, block[i]);
    }
  }
}

POLYLORA_INLINE Vec lanes_or_zero(const float* p, int64_t i, int64_t n) {
  if (p == nullptr) return splat(0.0f);
  return n - i >= kLanes ? load(p + i) : load_n(p + i, n - i);
}

template <class Kind>
void pack_rows(const PackRowsArgs& a) {
  const Vec scale = splat(a.scale);
  std::byte* panel = a.panels;
  for (int64_t i = 0; i < a.cols; i += kLanes) {
    const Vec first = mul(lanes_or_zero(a.x[0], i, a.cols), scale);
    const Vec second = mul(lanes_or_zero(a.x[1], i, a.cols), scale);
    if (a.narrowed[0] != nullptr) Kind::store_narrow(a.narrowed[0] + i * Kind::kBytes, first);
    if (a.narrowed[1] != nullptr) Kind::store_narrow(a.narrowed[1] + i * Kind::kBytes, second);
    if (panel == nullptr) continue;
    store_two_steps<Kind>(panel, first, second);
    panel += a.panel_stride;
  }
}

template <class Kind>
void pack_lanes(const PackLanesArgs& a) {
  std::byte* out = a.out;
  for (int64_t k = 0; k < a.cols; k += kLanes) {
    Vec block[kLanes];
    for (int i = 0; i < kLanes; ++i) block[i] = lanes_or_zero(a.rows[i], k, a.cols);
    transpose(block);
    for (int i = 0; i < kLanes; i += 2, out += 2 / Kind::kStep * kRowBytes)
      store_two_steps<Kind>(out, block[i], block[i + 1]);
  }
}

template <class Kind>
void narrow_columns(std::byte* out, size_t out_stride, const float* x, int64_t x_stride, int64_t rows,
                    int64_t cols) {
  for (int64_t c = 0; c < cols; c += kLanes) {
    Vec block[kLanes];
    for (int i = 0; i < kLanes; ++i) block[i] = lanes_or_zero(i < rows ? x + i * x_stride : nullptr, c, cols);
    transpose(block);
    const int64_t left = cols - c < kLanes ? cols - c : kLanes;
    for (int64_t i = 0; i < left; ++i, out += out_stride) Kind::store_narrow(out, block[i]);
  }
}

void add_transposed(float* y, int64_t y_stride, const float* x, int64_t x_stride, int64_t rows,
                    int64_t cols) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = rows - r < kLanes ? rows - r : kLanes;
    for (int64_t c = 0; c < cols; c += kLanes) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i)
        block[i] = lanes_or_zero(c + i < cols ? x + (c + i) * x_stride : nullptr, r, rows);
      transpose(block);
      for (int64_t i = 0; i < count; ++i) {
        float* at = y + (r + i) * y_stride + c;
        put_lanes(at, add(lanes_of(at, cols - c), block[i]), cols - c);
      }
    }
  }
}

// --- pointwise
// --------------------------------------------------------------------------------------------------

void rmsnorm_backward(float* dx, const float* dy, const float* x, const float* gain, int64_t n, float eps) {
  Vec squares = splat(0.0f), projection = splat(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec value = lanes_of(x + i, n - i);
    squares = fma(value, value, squares);
    projection = fma(value, mul(lanes_of(gain + i, n - i), lanes_of(dy + i, n - i)), projection);
  }
  const auto width = static_cast<float>(n);
  const float inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / width + eps);
  const Vec along = splat(reduce_add(projection) * inverse * inverse / width);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec straight = mul(lanes_of(gain + i, n - i), lanes_of(dy + i, n - i));
    const Vec bent = sub(straight, mul(along, lanes_of(x + i, n - i)));
    put_lanes(dx + i, fma(splat(inverse), bent, lanes_of(dx + i, n - i)), n - i);
  }
}

void rope_backward(float* head, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Vec c = lanes_of(cosine + i, left);
    const Vec s = lanes_of(sine + i, left);
    const Vec low = lanes_of(head + i, left);
    const Vec high = lanes_of(head + half + i, left);
    put_lanes(head + i, fma(low, c, mul(high, s)), left);
    put_lanes(head + half + i, sub(mul(high, c), mul(low, s)), left);
  }
}

/// s = 1 / (1 + exp(-x)) and, not by subtraction, 1 - s.
struct Sigmoid {
  POLYLORA_INLINE explicit Sigmoid(Vec x) {
    const Vec e = exp(sub(splat(0.0f), x));
    s = div(splat(1.0f), add(splat(1.0f), e));
    rest = mul(e, s);
  }
  Vec s, rest;
};

struct Gate {
  Vec value, slope;
};

struct Silu {
  POLYLORA_INLINE static Gate at(Vec g) {
    const Sigmoid sigmoid(g);
    const Vec value = mul(g, sigmoid.s);
    return {value, fma(value, sigmoid.rest, sigmoid.s)};
  }
};

/// With s = sigmoid(2u) = (1 + tanh u) / 2: value g·s, slope s + g·s·(1-s)·(2u)'
struct GeluTanh {
  POLYLORA_INLINE static Gate at(Vec g) {
    const Vec square = mul(g, g);
    const Vec twice_u = mul(fma(mul(square, g), splat(0.044715f), g), splat(1.5957691216f));
    const Vec twice_slope = mul(fma(square, splat(3 * 0.044715f), splat(1.0f)), splat(1.5957691216f));
    const Sigmoid sigmoid(twice_u);
    const Vec value = mul(g, sigmoid.s);
    return {value, fma(mul(value, sigmoid.rest), twice_slope, sigmoid.s)};
  }
};

template <class Activation>
void glu_backward(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec grad = lanes_of(dy + i, left);
    const Vec factor = lanes_of(up + i, left);
    const Gate g = Activation::at(lanes_of(gate + i, left));
    put_lanes(dgate + i, mul(mul(grad, factor), g.slope), left);
    put_lanes(dup + i, mul(grad, g.value), left);
  }
}

void softcap_backward(float* dy, const float* y, int64_t n, float cap) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec t = div(lanes_of(y + i, n - i), splat(cap));
    const Vec slope = sub(splat(1.0f), mul(t, t));
    put_lanes(dy + i, mul(lanes_of(dy + i, n - i), slope), n - i);
  }
}

/// Two sweeps. The first leaves exp(x - the maximum so far) in x, block by block, so that the second only has
/// to multiply each block with what its maximum lacked.
class Softmax {
 public:
  Softmax(float* x, int64_t n) : x_(x), n_(n) {
    block_ = round_up((n + kBlocks - 1) / kBlocks, kLanes);
    block_ = block_ < kLeastBlock ? kLeastBlock : block_;
  }

  void run(float weight, float* largest, float* total) {
    for (int64_t b = 0; b * block_ < n_; ++b) visit(b);
    *largest = largest_;
    *total = reduce_add(sums_);
    const float scale = weight / *total;
    for (int64_t b = 0; b * block_ < n_; ++b) {
      const Vec factor = mul(exp(splat(maxima_[b] - largest_)), splat(scale));
      for (int64_t i = b * block_; i < end(b); i += kLanes)
        put_lanes(x_ + i, mul(lanes_of(x_ + i, n_ - i), factor), n_ - i);
    }
  }

 private:
  static constexpr int64_t kBlocks = 256;
  static constexpr int64_t kLeastBlock = 512;

  int64_t end(int64_t b) const { return (b + 1) * block_ < n_ ? (b + 1) * block_ : n_; }

  /// Lanes past the end read as the lowest float there is: they neither win nor weigh.
  Vec logits(int64_t i) const {
    const int64_t left = n_ - i;
    if (left >= kLanes) return load(x_ + i);
    return keep_lanes(load_n(x_ + i, left), splat(-3.0e38f), 0, static_cast<int>(left));
  }

  void visit(int64_t b) {
    Vec top = splat(largest_);
    for (int64_t i = b * block_; i < end(b); i += kLanes) top = max(logits(i), top);
    const float before = largest_;
    largest_ = reduce_max(top);
    if (largest_ > before) sums_ = mul(sums_, exp(splat(before - largest_)));
    maxima_[b] = largest_;
    for (int64_t i = b * block_; i < end(b); i += kLanes) {
      const Vec e = exp(sub(logits(i), splat(largest_)));
      sums_ = add(sums_, e);
      put_lanes(x_ + i, e, n_ - i);
    }
  }

  float* x_;
  int64_t n_;
  int64_t block_;
  float largest_ = -3.0e38f;
  Vec sums_ = splat(0.0f);
  float maxima_[kBlocks];
};

void softmax(float* x, int64_t n, float weight, float* largest, float* total) {
  Softmax(x, n).run(weight, largest, total);
}

void scale_by(float* y, const float* gain, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes)
    put_lanes(y + i, mul(lanes_of(y + i, n - i), lanes_of(gain + i, n - i)), n - i);
}

void column_dots(float* out, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                 int64_t cols) {
  for (int64_t i = 0; i < cols; i += kLanes) {
    Vec sum = splat(0.0f);
    for (int64_t t = 0; t < rows; ++t)
      sum = fma(lanes_of(a + t * a_stride + i, cols - i), lanes_of(b + t * b_stride + i, cols - i), sum);
    put_lanes(out + i, add(lanes_of(out + i, cols - i), sum), cols - i);
  }
}

// --- optimizer and merge
// ----------------------------------------------------------------------------------------

void adamw(float* p, float* m, float* v, const float* g, int64_t n, const AdamwFactors& f) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec gradient = mul(lanes_of(g + i, left), splat(f.gradient_scale));
    const Vec first = fma(splat(f.beta1), lanes_of(m + i, left), mul(splat(f.rest1), gradient));
    const Vec second =
        fma(splat(f.beta2), lanes_of(v + i, left), mul(mul(splat(f.rest2), gradient), gradient));
    const Vec root = fma(sqrt(second), splat(f.inverse_root), splat(f.epsilon));
    const Vec step = div(mul(splat(f.step_size), first), root);
    put_lanes(m + i, first, left);
    put_lanes(v + i, second, left);
    put_lanes(p + i, sub(mul(lanes_of(p + i, left), splat(f.keep)), step), left);
  }
}

float sum_squares(const float* x, int64_t n) {
  Vec sum = splat(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec value = lanes_of(x + i, n - i);
    sum = fma(value, value, sum);
  }
  return reduce_add(sum);
}

template <int kVectors>
POLYLORA_INLINE void merge_columns(float* w, const float* a, int64_t a_stride, const float* b, int64_t rank,
                                   Vec scale, int64_t left) {
  Vec product[kVectors];
  for (int i = 0; i < kVectors; ++i) product[i] = splat(0.0f);
  for (int64_t r = 0; r < rank; ++r, a += a_stride) {
    const Vec factor = splat(b[r]);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i)
      product[i] = fused(factor, lanes_of(a + i * kLanes, left - i * kLanes), product[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i, w += kLanes, left -= kLanes)
    put_lanes(w, add(lanes_of(w, left), mul(product[i], scale)), left);
}

void lora_merge(float* w, const float* a, int64_t a_stride, const float* b, int64_t rank, int64_t k,
                float scale) {
  constexpr int kWide = 4;
  int64_t i = 0;
  for (; i + kWide * kLanes <= k; i += kWide * kLanes)
    merge_columns<kWide>(w + i, a + i, a_stride, b, rank, splat(scale), kWide * kLanes);
  for (; i < k; i += kLanes) merge_columns<1>(w + i, a + i, a_stride, b, rank, splat(scale), k - i);
}

constexpr TrainingKernels kTrainingKernels = {
    .transpose = {transpose_f32, transpose_to_bf16<Bf16Reader>, transpose_to_bf16<QuantReader<false, false>>,
                  transpose_to_bf16<QuantReader<false, true>>, transpose_to_bf16<QuantReader<true, false>>,
                  transpose_to_bf16<QuantReader<true, true>>},
    .pack_rows = {pack_rows<F32>, pack_rows<Bf16>},
    .pack_lanes = {pack_lanes<F32>, pack_lanes<Bf16>},
    .narrow_columns = {narrow_columns<F32>, narrow_columns<Bf16>},
    .add_transposed = add_transposed,
    .rmsnorm_backward = rmsnorm_backward,
    .rope_backward = rope_backward,
    .silu_backward = glu_backward<Silu>,
    .gelu_tanh_backward = glu_backward<GeluTanh>,
    .softcap_backward = softcap_backward,
    .softmax = softmax,
    .scale_by = scale_by,
    .column_dots = column_dots,
    .adamw = adamw,
    .sum_squares = sum_squares,
    .lora_merge = lora_merge,
};
