// What the parts of `polylora bench kernels` share: timing, the yardsticks of this machine, and the table.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/machine.h"
#include "base/thread_pool.h"
#include "ops/training_backend.h"

namespace polylora {

/// Row-major random values in [-0.5, 0.5).
class RandomMatrix {
 public:
  RandomMatrix(int64_t rows, int64_t cols);

  operator Mat() { return mat(); }
  operator ConstMat() const { return {values_.data(), rows_, cols_}; }
  Mat mat() { return {values_.data(), rows_, cols_}; }
  std::span<float> span() { return values_; }
  const float* data() const { return values_.data(); }

 private:
  int64_t rows_, cols_;
  std::vector<float> values_;
};

/// A (fused) linear of a model, y[T,n] = x[T,k]·wᵀ, and the column ranges that LoRA pairs of it cover.
struct LinearShape {
  std::string name;  // "SmolLM2 qkv"
  int64_t k;
  int64_t n;
  std::vector<std::pair<int64_t, int64_t>> ranges;  // begin, count
};

/// The sizes that decide how fast a Llama is.
struct LlamaShape {
  std::string name;
  int64_t hidden, feed_forward;
  int heads, kv_heads, head_dim;
  int64_t vocabulary;

  LinearShape qkv() const;
  LinearShape o() const;
  LinearShape gate_up() const;
  LinearShape down() const;
  LinearShape lm_head() const;
};

/// SmolLM2-135M and Llama-3.2-1B.
const std::vector<LlamaShape>& bench_shapes();

/// One line of the table.
struct Figure {
  std::string op;     // "linear bf16"
  std::string shape;  // "SmolLM2 qkv, 16 rows"
  /// The least that a call moves to and from memory, and computes; whichever takes this machine longer is the
  /// limit that the figure is held against.
  double bytes = 0;
  double operations = 0;
  double Peaks::*peak = &Peaks::f32;  // of the operations
  /// One call. Called with 0, 1, …, so that it can take turns with copies of what must come from memory.
  std::function<void(int call)> run;
};

/// What the machine can do at one moment.
struct Yardsticks {
  double read_bandwidth = 0;  // GB/s
  Peaks peaks;
};

class FigureTimes;

struct KernelBenchOptions {
  int threads = 0;
  double seconds = 0.1;  // per figure
};

class KernelBench {
 public:
  explicit KernelBench(const KernelBenchOptions& options);

  TrainingBackend& ops() { return *backend_; }
  int threads() const { return pool_.size(); }
  bool computes_with_avx2() const;

  /// Prints a heading.
  void begin_group(const std::string& title);

  /// Times the figures in short turns, between which the machine itself is measured, since it drifts: each
  /// turn is held against the yardsticks of its moment. Prints a line for each figure. Returns the median
  /// seconds of a call.
  std::vector<double> measure(const std::vector<Figure>& figures);
  double measure(const Figure& figure) { return measure(std::vector{figure}).front(); }

  /// A line that is no figure.
  void note(const std::string& text);

  nlohmann::ordered_json results() const;

 private:
  void print(const Figure& figure, const FigureTimes& times);

  const KernelBenchOptions options_;
  std::unique_ptr<TrainingBackend> backend_;
  ThreadPool pool_;  // of the yardsticks
  ReadProbe reads_;
  std::string group_;
  nlohmann::ordered_json figures_ = nlohmann::ordered_json::array();
};

// The groups, each in a file of its own (bench_kernels_*.cc).
void bench_linear(KernelBench& bench);
void bench_reference(KernelBench& bench);
void bench_lora(KernelBench& bench);
void bench_attention(KernelBench& bench);
void bench_pointwise(KernelBench& bench);
void bench_pack(KernelBench& bench);
void bench_training(KernelBench& bench);

/// What weights take together at least where they are to come from memory: far more than any cache.
inline constexpr size_t kBeyondCaches = size_t{192} << 20;

/// Random rows [n, k] of a checkpoint in the dtype that `format` holds exactly. Packable as long as it lives.
class RandomCheckpoint {
 public:
  RandomCheckpoint(WeightFormat format, int64_t n, int64_t k);
  const WeightSource& source() const { return source_; }

 private:
  std::vector<std::byte> bytes_;
  WeightSource source_;
};

/// What the products with weights of this format are held against.
double Peaks::*peak_of(WeightFormat format);

}  // namespace polylora
