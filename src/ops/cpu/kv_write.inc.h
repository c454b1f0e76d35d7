// Keys and values on their way into a page, in the layouts that kernels.h describes. Part of kernels.inc.h,
// inside its namespace.
//
// In every format 4 bytes hold kStep values: of a token's keys, neighbouring dims; of a dim's values,
// neighbouring tokens. So a page's row of keys has a lane per token, and one of values a lane per dim.

struct F32Elements {
  static constexpr int kStep = 1;
  POLYLORA_INLINE static Vec pack(const Vec* x) { return x[0]; }
};

struct Bf16Elements {
  static constexpr int kStep = 2;
  POLYLORA_INLINE static Vec pack(const Vec* x) { return row_floats(pack_bf16(x[0], x[1])); }
};

/// Of values already divided by their token's scale.
struct Int8Elements {
  static constexpr int kStep = 4;
  POLYLORA_INLINE static Vec pack(const Vec* x) {
    const auto biased = [](Vec v) { return iadd(round_to_int(v), isplat(128)); };
    return row_floats(iadd(iadd(biased(x[0]), shift_left<8>(biased(x[1]))),
                           iadd(shift_left<16>(biased(x[2])), shift_left<24>(biased(x[3])))));
  }
};

/// A run of one kv head's tokens that lie in one page.
template <class Elements>
class PageWriter {
 public:
  explicit PageWriter(const KvWriteArgs& args) : a_(args), padded_dim_(round_up(args.head_dim, kLanes)) {}

  void run() {
    Divisors keys;
    Divisors values;
    if constexpr (kScaled) {
      keys = write_scales(a_.page + a_.value_offset - kRowBytes, a_.key, a_.key_stride);
      values = write_scales(a_.page + 2 * a_.value_offset - kRowBytes, a_.value, a_.value_stride);
    }
    write_keys(keys);
    write_values(values);
  }

 private:
  static constexpr int kStep = Elements::kStep;
  static constexpr bool kScaled = kStep == 4;

  struct Divisors {
    alignas(64) float inverse[kLanes];  // of each of the page's tokens; 0 for those that are not written
  };

  int token_end() const { return a_.token_begin + a_.tokens; }

  Divisors write_scales(std::byte* out, const float* rows, int64_t stride) const {
    Divisors divisors = {};
    alignas(64) float scales[kLanes] = {};
    for (int t = 0; t < a_.tokens; ++t) {
      const float largest = largest_of(rows + t * stride, a_.head_dim);
      const bool tiny = largest < kTinyActivation;
      scales[a_.token_begin + t] = tiny ? 0.0f : largest / 127.0f;
      divisors.inverse[a_.token_begin + t] = tiny ? 0.0f : 127.0f / largest;
    }
    auto* at = reinterpret_cast<float*>(out);
    store(at, keep_lanes(load(scales), load(at), a_.token_begin, token_end()));
    return divisors;
  }

  void write_keys(const Divisors& divisors) const {
    for (int64_t d = 0; d < padded_dim_; d += kLanes) {
      Vec v[kLanes];
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) v[lane] = splat(0.0f);
      for (int t = 0; t < a_.tokens; ++t) {
        v[a_.token_begin + t] = lanes_of(a_.key + t * a_.key_stride + d, a_.head_dim - d);
      }
      transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i += kStep) {
        if constexpr (kScaled) {
          for (int j = 0; j < kStep; ++j) v[i + j] = mul(v[i + j], load(divisors.inverse));
        }
        auto* at = reinterpret_cast<float*>(a_.page + (d + i) / kStep * kRowBytes);
        store(at, keep_lanes(Elements::pack(v + i), load(at), a_.token_begin, token_end()));
      }
    }
  }

  void write_values(const Divisors& divisors) const {
    for (int first = a_.token_begin / kStep * kStep; first < token_end(); first += kStep) {
      uint32_t written = 0;
      for (int j = 0; j < kStep; ++j) {
        if (has(first + j)) written |= kElementBits << (j * (32 / kStep));
      }
      auto* out = reinterpret_cast<float*>(a_.page + a_.value_offset) + first / kStep * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; d += kLanes, out += kLanes) {
        Vec x[kStep];
        for (int j = 0; j < kStep; ++j) x[j] = value(first + j, d, divisors);
        store(out, select(isplat(static_cast<int32_t>(written)), Elements::pack(x), load(out)));
      }
    }
  }

  bool has(int token) const {
    return token >= a_.token_begin && token < token_end();
  }

  Vec value(int token, int64_t d, const Divisors& divisors) const {
    if (!has(token)) return splat(0.0f);
    const Vec v = lanes_of(a_.value + (token - a_.token_begin) * a_.value_stride + d, a_.head_dim - d);
    return kScaled ? mul(v, splat(divisors.inverse[token])) : v;
  }

  static constexpr uint32_t kElementBits = static_cast<uint32_t>((uint64_t{1} << (32 / kStep)) - 1);

  const KvWriteArgs& a_;
  int64_t padded_dim_;
};

template <class Elements>
void write_page(const KvWriteArgs& args) {
  PageWriter<Elements>(args).run();
}
