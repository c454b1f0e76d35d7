// `polylora verify`: does the merged model do what the base does with its adapter?
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/progress.h"
#include "io/checkpoint.h"
#include "ops/backend.h"

namespace polylora {

struct VerifyOptions {
  std::filesystem::path base;      // HF folder or .gguf file
  std::filesystem::path adapter;   // PEFT folder
  std::filesystem::path merged;    // HF folder or .gguf file
  int prompts = 8;                 // a few fixed texts when there is a tokenizer, then random ids
  int tokens = 16;                 // compared per prompt: the adapter's greedy continuation
  std::string dtype = "bfloat16";  // bfloat16 or float32: of all weights, the adapter's and the KV cache's
  double tolerance = 0.01;         // of the mean KL divergence, in nats; see VerifyReport::agrees
  BackendOptions backend = {};
};

/// How far one model's next-token distributions are from the adapter's, over all compared positions.
struct Distance {
  double max_logit_difference = 0;
  double mean_kl = 0;  // KL(adapter || other), nats
  double max_kl = 0;
  double greedy_agreement = 0;  // share of positions with the same most likely token
};

struct VerifyReport {
  int positions = 0;
  Distance merged;
  Distance base;  // for comparison: what the adapter changes at all

  /// The merged model's mean KL is within the tolerance and, where the adapter changes anything measurable
  /// (1e-6 nats), below that of the bare base. Rounding the merged weights to bf16 costs about 1e-4 to 1e-3
  /// nats; another adapter, a wrong scale or a missing layer costs 0.1 and more.
  bool agrees = false;
};

/// Loads base and adapter, then, after freeing them, the merged model; runs the same token sequences through
/// all three. Deterministic. Throws what loading throws; kInvalidArgument when base and merged have different
/// vocabularies.
VerifyReport verify_merge(const VerifyOptions& options, const ProgressFn& progress = {});

nlohmann::ordered_json verify_json(const VerifyOptions& options, const VerifyReport& report);

}  // namespace polylora
