#include "cli/stress_requests.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "load/request_bodies.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kChurnedAdapters = 8;  // that are reloaded in place while requests use them
constexpr int kWarmUpTokens = 4;
constexpr int kWarmUpRound = -1;
constexpr const char* kChurnedName = "churn";  // of the adapter that comes and goes

void add_call(SideTraffic& side, const char* path, const Json& body) {
  HttpCall& call = side.calls.emplace_back();
  call.path = path;
  call.body = body.dump();
}

void add_load(SideTraffic& side, const std::string& name, const std::string& path) {
  add_call(side, "/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", path}, {"load_inplace", true}});
}

}  // namespace

StressRequests::StressRequests(const BenchStressFlags& flags, int vocab_size,
                               std::vector<LoraModule> adapters, StressCell cell, size_t index)
    : flags_(flags),
      vocab_size_(vocab_size),
      adapters_(std::move(adapters)),
      cell_(std::move(cell)),
      index_(index) {}

StressPlans StressRequests::warm_up() const {
  const std::vector<BenchPrompt> short_prompts =
      prompts(kWarmUpRound, std::max(cell_.concurrency, cell_.adapters), kWarmUpTokens);
  std::vector<std::string> names;
  for (size_t i = 0; i < short_prompts.size(); ++i) names.push_back(adapters_[i % adapters_.size()].name);
  const auto few = short_prompts.begin() + cell_.concurrency;
  return {plan({short_prompts.begin(), few}, {}), plan(short_prompts, names)};
}

StressPlans StressRequests::round(int round) const {
  const int count = flags_.num_prompts > 0 ? flags_.num_prompts : 2 * cell_.concurrency;
  const std::vector<BenchPrompt> all = prompts(round, count, flags_.output_len);
  std::vector<std::string> names;
  for (const size_t chosen : assign_adapters(cell_.popularity, adapters_.size(), all.size(),
                                             static_cast<size_t>(round), static_cast<uint64_t>(flags_.seed)))
    names.push_back(adapters_[chosen].name);
  StressPlans plans = {plan(all, {}), plan(all, names)};
  if (cell_.churn) plans.adapters.side = churn();
  return plans;
}

std::vector<BenchPrompt> StressRequests::prompts(int round, int count, int output_len) const {
  RandomPromptOptions options;
  options.count = count;
  options.input_len = flags_.input_len;
  options.output_len = output_len;
  options.seed = (static_cast<uint64_t>(flags_.seed) << 40) + (static_cast<uint64_t>(index_) << 24) +
                 static_cast<uint64_t>(round - kWarmUpRound);
  TokenSource source;
  source.first_id = 0;
  source.end_id = vocab_size_;
  return random_prompts(options, source);
}

/// Without models, all requests are the base's.
LoadPlan StressRequests::plan(const std::vector<BenchPrompt>& prompts,
                              const std::vector<std::string>& models) const {
  BodyOptions body;
  body.ignore_eos = true;
  body.extra["temperature"] = 0;
  LoadPlan plan;
  plan.max_concurrency = cell_.concurrency;
  for (size_t i = 0; i < prompts.size(); ++i) {
    PlannedRequest& request = plan.requests.emplace_back();
    request.model = models.empty() ? kStressBaseName : models[i];
    request.body = completion_body(body, request.model, prompts[i]);
    request.prompt_tokens = prompts[i].tokens;
  }
  return plan;
}

/// An adapter that nobody uses comes and goes, and those that requests do use are replaced by themselves.
SideTraffic StressRequests::churn() const {
  SideTraffic side;
  side.interval_s = flags_.churn_interval;
  for (size_t i = 0; i < std::min(adapters_.size(), kChurnedAdapters); ++i) {
    const std::string path = adapters_[i].path.string();
    add_load(side, kChurnedName, path);
    add_load(side, adapters_[i].name, path);
    add_call(side, "/v1/unload_lora_adapter", {{"lora_name", kChurnedName}});
  }
  return side;
}

}  // namespace polylora
