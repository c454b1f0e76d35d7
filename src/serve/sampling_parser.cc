#include "serve/sampling_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "serve/api_error.h"

namespace polylora {

namespace {

constexpr float kGreedyTemperature = 1e-5f;  // vLLM's _SAMPLING_EPS

void read_sampling(FieldReader& fields, const RequestRules& rules, SamplingParams& out) {
  const auto number = [&](const char* key, std::optional<float> fallback, float last) {
    const std::optional<double> given = fields.number(key);
    return given ? static_cast<float>(*given) : fallback.value_or(last);
  };
  out.temperature = number("temperature", rules.default_temperature, 1.0f);
  out.top_p = number("top_p", rules.default_top_p, 1.0f);
  out.min_p = number("min_p", rules.default_min_p, 0.0f);
  out.repetition_penalty = number("repetition_penalty", rules.default_repetition_penalty, 1.0f);
  out.presence_penalty = number("presence_penalty", {}, 0.0f);
  out.frequency_penalty = number("frequency_penalty", {}, 0.0f);
  const std::optional<int> top_k = fields.small_integer("top_k");
  out.top_k = top_k ? *top_k : rules.default_top_k.value_or(0);
  out.min_tokens = fields.small_integer("min_tokens").value_or(0);
  out.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  out.stop_token_ids = fields.token_ids("stop_token_ids").value_or(std::vector<int32_t>{});
  out.allowed_token_ids = fields.token_ids("allowed_token_ids").value_or(std::vector<int32_t>{});
  out.logit_bias = fields.biases("logit_bias").value_or(std::vector<std::pair<int32_t, float>>{});
  for (auto& [id, bias] : out.logit_bias) bias = std::clamp(bias, -100.0f, 100.0f);
  if (const std::optional<int64_t> seed = fields.integer("seed"); seed && *seed != -1)
    out.seed = static_cast<uint64_t>(*seed);
}

void read_stream_options(FieldReader& fields, const RequestRules& rules, GenerationFields& out) {
  out.stream = fields.boolean("stream").value_or(false);
  if (const Json* options = fields.object("stream_options")) {
    if (!out.stream)
      fail_parameter("stream_options", "Stream options can only be defined when `stream=True`.");
    FieldReader inner(*options);
    out.include_usage = inner.boolean("include_usage").value_or(false);
    out.continuous_usage_stats = out.include_usage && inner.boolean("continuous_usage_stats").value_or(false);
    inner.finish();
  }
  out.include_usage = out.include_usage || (out.stream && rules.force_include_usage);
}

void check_between(const char* param, float value, bool ok, std::string_view rule) {
  if (!ok) {
    const std::string shown = python_float(static_cast<double>(value));
    fail_parameter(param, fmt::format("{} must be {}, got {}.", param, rule, shown), shown);
  }
}

/// As check_between, for integers; `words` come without the name in vLLM too.
void check_integer(const char* param, int value, bool ok, std::string_view rule) {
  if (!ok)
    fail_parameter(param, fmt::format("{} must be {}, got {}.", param, rule, value), std::to_string(value));
}

void check_ranges(const SamplingParams& in) {
  check_between("presence_penalty", in.presence_penalty,
                in.presence_penalty >= -2 && in.presence_penalty <= 2, "in [-2, 2]");
  check_between("frequency_penalty", in.frequency_penalty,
                in.frequency_penalty >= -2 && in.frequency_penalty <= 2, "in [-2, 2]");
  check_between("repetition_penalty", in.repetition_penalty, in.repetition_penalty > 0, "greater than zero");
  check_between("temperature", in.temperature, in.temperature >= 0, "non-negative");
  check_between("top_p", in.top_p, in.top_p > 0 && in.top_p <= 1, "in (0, 1]");
  check_integer("top_k", in.top_k, in.top_k >= -1, "0 (disable), or at least 1");
  check_between("min_p", in.min_p, in.min_p >= 0 && in.min_p <= 1, "in [0, 1]");
  check_integer("min_tokens", in.min_tokens, in.min_tokens >= 0, "greater than or equal to 0");
}

void check_strings(const char* param, const std::vector<std::string>& strings, int most) {
  if (strings.size() > static_cast<size_t>(most))
    fail_parameter(param,
                   fmt::format("{} can have at most {} entries, got {}.", param, most, strings.size()));
  if (std::ranges::any_of(strings, &std::string::empty))
    fail_parameter(param, fmt::format("{} cannot contain an empty string.", param));
}

void check_choices(const GenerationFields& in, const RequestRules& rules) {
  check_integer("n", in.n, in.n >= 1, "at least 1");
  check_integer("n", in.n, in.n <= rules.max_n, fmt::format("at most {}", rules.max_n));
  if (in.n > 1 && in.sampling.temperature < kGreedyTemperature)
    fail_parameter("n", fmt::format("n must be 1 when using greedy sampling, got {}.", in.n),
                   std::to_string(in.n));
}

}  // namespace

void read_generation_fields(FieldReader& fields, const RequestRules& rules, GenerationFields& out) {
  out.model = fields.string("model").value_or("");
  out.adapters = fields.weighted_names("adapters").value_or(std::vector<WeightedName>{});
  out.n = fields.small_integer("n").value_or(1);
  read_sampling(fields, rules, out.sampling);
  out.stop = fields.strings("stop", true).value_or(std::vector<std::string>{});
  out.bad_words = fields.strings("bad_words", false).value_or(std::vector<std::string>{});
  out.include_stop_str_in_output = fields.boolean("include_stop_str_in_output").value_or(false);
  out.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  out.echo = fields.boolean("echo").value_or(false);
  out.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  out.return_tokens_as_token_ids = fields.boolean("return_tokens_as_token_ids").value_or(false);
  out.add_special_tokens = fields.boolean("add_special_tokens");
  out.truncate_prompt_tokens = fields.small_integer("truncate_prompt_tokens");
  out.priority = fields.small_integer("priority").value_or(0);
  out.request_id = fields.string("request_id").value_or("");
  if (const auto count = fields.small_integer("prompt_logprobs")) out.sampling.prompt_logprobs = *count;
  out.structured = read_structured_output(fields);
  read_stream_options(fields, rules, out);
}

void check_generation_fields(const FieldReader& fields, const RequestRules& rules,
                             const GenerationFields& in) {
  check_choices(in, rules);
  if (in.adapters.size() > kMaxStackedAdapters)
    fail_parameter("adapters", fmt::format("a request can combine at most {} adapters, got {}.",
                                           kMaxStackedAdapters, in.adapters.size()));
  check_ranges(in.sampling);
  if (in.max_tokens) {
    check_integer("max_tokens", *in.max_tokens, *in.max_tokens >= (in.echo ? 0 : 1), "at least 1");
    if (*in.max_tokens > 0 && in.sampling.min_tokens > *in.max_tokens)
      fail_parameter("min_tokens",
                     fmt::format("min_tokens must be less than or equal to max_tokens={}, got {}.",
                                 *in.max_tokens, in.sampling.min_tokens),
                     std::to_string(in.sampling.min_tokens));
  }
  check_strings("stop", in.stop, rules.max_stop_strings);
  check_strings("bad_words", in.bad_words, rules.max_bad_words);
  if (fields.find("allowed_token_ids") != nullptr && in.sampling.allowed_token_ids.empty())
    fail_parameter("allowed_token_ids", "allowed_token_ids is not None and empty!");
  if (fields.find("prompt_logprobs") != nullptr) {
    if (in.stream)
      fail_parameter("prompt_logprobs", "`prompt_logprobs` are not available when `stream=True`.");
    check_logprobs("prompt_logprobs", "prompt", in.sampling.prompt_logprobs, rules);
  }
  if (in.truncate_prompt_tokens)
    check_integer("truncate_prompt_tokens", *in.truncate_prompt_tokens,
                  *in.truncate_prompt_tokens == -1 || *in.truncate_prompt_tokens >= 1, "-1 or at least 1");
  if (in.priority != 0 && !rules.priority_scheduling)
    fail_parameter("priority",
                   fmt::format("Got priority {} but Priority scheduling is not enabled.", in.priority));
}

void check_logprobs(std::string_view param, std::string_view what, int count, const RequestRules& rules) {
  if (count < 0)
    fail_parameter(param, fmt::format("{} must be non-negative, got {}.", param, count),
                   std::to_string(count));
  if (count > rules.max_logprobs)
    fail_parameter(param,
                   fmt::format("Requested {} logprobs of {}, which is greater than max allowed: {}", what,
                               count, rules.max_logprobs),
                   std::to_string(count));
}

void refuse_unsupported_fields(const FieldReader& fields) {
  static constexpr std::array kUnsupported = {"suffix",
                                              "guided_grammar",
                                              "guided_whitespace_pattern",
                                              "structural_tag",
                                              "prompt_embeds",
                                              "chat_template",
                                              "mm_processor_kwargs",
                                              "logits_processors",
                                              "functions",
                                              "function_call",
                                              "thinking_token_budget",
                                              "prediction",
                                              "audio",
                                              "modalities",
                                              "kv_transfer_params",
                                              "logit_processors",
                                              "web_search_options"};
  for (const char* key : kUnsupported) {
    const Json* value = fields.find(key);
    const bool empty = value == nullptr || (value->is_structured() && value->empty()) || *value == "";
    if (!empty) fail_parameter(key, fmt::format("{} is not supported by this server.", key));
  }
  if (const Json* beams = fields.find("use_beam_search"); beams != nullptr && *beams != false)
    fail_parameter("use_beam_search", "use_beam_search is not supported by this server.");
}

}  // namespace polylora
