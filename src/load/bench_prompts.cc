#include "load/bench_prompts.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "load/random_stream.h"

namespace polylora {
namespace {

// Streams of random numbers of one seed; those of the prompts follow kPrompts.
constexpr uint64_t kLengths = 1, kPrefixes = 2, kOrder = 3, kPrompts = 1000;

/// Words that are one token in most vocabularies, with the blank before them.
constexpr std::string_view kWords[] = {
    "time",   "year",  "people", "way",   "day",  "man",  "thing", "woman",  "life",  "child",  "world",
    "school", "state", "family", "group", "hand", "part", "place", "case",   "week",  "work",   "number",
    "night",  "point", "home",   "water", "room", "area", "money", "story",  "fact",  "month",  "right",
    "study",  "book",  "eye",    "job",   "word", "side", "kind",  "head",   "house", "friend", "power",
    "hour",   "game",  "line",   "end",   "law",  "car",  "city",  "name",   "team",  "minute", "idea",
    "body",   "face",  "level",  "door",  "art",  "war",  "party", "result", "change"};

class PromptWriter {
 public:
  PromptWriter(const TokenSource& source, uint64_t seed) : source_(source), seed_(seed) {
    if (source.first_id < 0 || source.end_id <= source.first_id)
      fail(ErrorCode::kInvalidArgument, "random token ids from {} up to {}: there are none", source.first_id,
           source.end_id);
  }

  std::vector<int32_t> ids(uint64_t stream, int count) const {
    RandomStream random(seed_, stream);
    std::vector<int32_t> result(static_cast<size_t>(count));
    for (int32_t& id : result)
      id = static_cast<int32_t>(random.between(source_.first_id, source_.end_id - 1));
    return result;
  }

  BenchPrompt prompt(std::vector<int32_t> ids, int max_tokens) const {
    BenchPrompt prompt;
    prompt.tokens = static_cast<int>(ids.size());
    prompt.max_tokens = max_tokens;
    if (source_.as_text) {
      prompt.content = text(ids);
    } else {
      prompt.content = std::move(ids);
    }
    return prompt;
  }

 private:
  std::string text(const std::vector<int32_t>& ids) const {
    if (source_.tokenizer != nullptr) return source_.tokenizer->decode(ids, true);
    std::string words;
    for (const int32_t id : ids) {
      if (!words.empty()) words += ' ';
      words += kWords[static_cast<size_t>(id) % std::size(kWords)];
    }
    return words;
  }

  const TokenSource& source_;
  uint64_t seed_;
};

int random_length(RandomStream& random, int length, double range) {
  const double low = std::floor(length * (1 - range)), high = std::ceil(length * (1 + range));
  return std::max(1, static_cast<int>(random.between(static_cast<int64_t>(low), static_cast<int64_t>(high))));
}

}  // namespace

std::vector<BenchPrompt> random_prompts(const RandomPromptOptions& options, const TokenSource& source) {
  const PromptWriter writer(source, options.seed);
  const std::vector<int32_t> prefix = writer.ids(kPrefixes, options.prefix_len);
  RandomStream lengths(options.seed, kLengths);
  std::vector<BenchPrompt> prompts;
  for (int i = 0; i < options.count; ++i) {
    const int input = random_length(lengths, options.input_len, options.input_range);
    const int output = random_length(lengths, options.output_len, options.output_range);
    std::vector<int32_t> ids = prefix;
    const std::vector<int32_t> own = writer.ids(kPrompts + static_cast<uint64_t>(i), input);
    ids.insert(ids.end(), own.begin(), own.end());
    prompts.push_back(writer.prompt(std::move(ids), output));
  }
  return prompts;
}

std::vector<BenchPrompt> prefix_repetition_prompts(const PrefixRepetitionOptions& options,
                                                   const TokenSource& source) {
  const PromptWriter writer(source, options.seed);
  const int per_prefix = options.count / options.num_prefixes;
  if (per_prefix == 0)
    fail(ErrorCode::kInvalidArgument, "{} prompts are too few for {} prefixes", options.count,
         options.num_prefixes);
  std::vector<BenchPrompt> prompts;
  for (int p = 0; p < options.num_prefixes; ++p) {
    const std::vector<int32_t> prefix = writer.ids(kPrompts + static_cast<uint64_t>(p), options.prefix_len);
    for (int i = 0; i < per_prefix; ++i) {
      std::vector<int32_t> ids = prefix;
      const auto stream = kPrompts + static_cast<uint64_t>(options.num_prefixes + p * per_prefix + i);
      const std::vector<int32_t> suffix = writer.ids(stream, options.suffix_len);
      ids.insert(ids.end(), suffix.begin(), suffix.end());
      prompts.push_back(writer.prompt(std::move(ids), options.output_len));
    }
  }
  if (options.shuffle) RandomStream(options.seed, kOrder).shuffle(prompts);
  return prompts;
}

}  // namespace polylora
