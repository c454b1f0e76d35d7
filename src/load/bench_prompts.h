// The prompts of a load run: made up, or read from a file. Every one is a function of the options and its
// index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "text/tokenizer.h"

namespace polylora {

struct BenchPrompt {
  std::variant<std::string, std::vector<int32_t>> content;  // text, or token ids
  int tokens = 0;      // of the content, as far as it is known here; 0: the server will tell
  int max_tokens = 0;  // of the output
};

/// How made-up prompts are written. Token ids have exact lengths on every server of the vocabulary. Text is
/// needed where only text is taken (chat): decoded ids with a tokenizer, common English words without.
struct TokenSource {
  const Tokenizer* tokenizer = nullptr;
  bool as_text = false;
  int32_t first_id = 300;   // random ids are from [first_id, end_id): beyond the special tokens at the
  int32_t end_id = 30'000;  // front of most vocabularies, within all that are larger than Llama 2's
};

struct RandomPromptOptions {
  int count = 1000;
  int input_len = 1024;
  int output_len = 128;
  double input_range = 0;  // r: lengths are uniform in [len·(1−r), len·(1+r)]
  double output_range = 0;
  int prefix_len = 0;  // tokens that begin every prompt, the same for all, on top of input_len
  uint64_t seed = 0;
};
std::vector<BenchPrompt> random_prompts(const RandomPromptOptions& options, const TokenSource& source);

struct PrefixRepetitionOptions {
  int count = 1000;
  int prefix_len = 256;
  int suffix_len = 256;
  int num_prefixes = 10;
  int output_len = 128;
  bool shuffle = true;  // else the prompts of one prefix follow each other
  uint64_t seed = 0;
};
/// Every prefix begins count / num_prefixes prompts, with a suffix of its own each.
std::vector<BenchPrompt> prefix_repetition_prompts(const PrefixRepetitionOptions& options,
                                                   const TokenSource& source);

struct PromptFileOptions {
  std::filesystem::path path;
  int count = 1000;
  int output_len =
      -1;  // custom, -1: each row's `output_tokens`; sharegpt, -1: the length of the reference answer
  bool shuffle = true;
  bool oversample = true;  // too few prompts are used several times
  uint64_t seed = 0;
};

/// JSON lines with a `prompt` each. Throws kNotFound, or kDataCorrupt naming file and line.
std::vector<BenchPrompt> custom_prompts(const PromptFileOptions& options);

/// A JSON list of ShareGPT conversations: the first turn is the prompt, the second the reference answer.
/// Those that vLLM leaves out (prompt or answer below 4 tokens, prompt above 1024, both above 2048) are left
/// out; without a tokenizer, 4 bytes count as a token. Throws as custom_prompts.
std::vector<BenchPrompt> sharegpt_prompts(const PromptFileOptions& options, const Tokenizer* tokenizer);

}  // namespace polylora
