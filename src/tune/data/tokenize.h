// Conversations and documents as training examples: cut to cutoff_len, labelled. The rules are
// LLaMA-Factory's (data/processor/), number for number.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tune/data/conversation.h"
#include "tune/data/example.h"
#include "tune/data/turn_encoder.h"

namespace polylora {

struct TokenizeOptions {
  int64_t cutoff_len = 2048;     // >= 1
  bool train_on_prompt = false;  // prompts are labelled too
  bool mask_history = false;     // only the last answer is labelled; the last turns are kept first
};

struct TurnLengths {
  size_t prompt, answer;
};
/// How much of a turn is kept within `cutoff_len`: the prompt is cut for short answers, the answer for short
/// prompts, else both in proportion.
TurnLengths infer_seqlen(size_t prompt, size_t answer, size_t cutoff_len);

/// Turns that find the budget used up are left out. May be longer than cutoff_len by one (efficient_eos).
Example tokenize_conversation(const TurnEncoder& encoder, const Conversation& conversation,
                              const TokenizeOptions& options);

/// Both answers are cut to the same length; both examples have the same prompt.
PreferencePair tokenize_pair(const TurnEncoder& encoder, const Conversation& conversation,
                             const TokenizeOptions& options);

/// For stage pt: what follows a document, and what stands before it.
struct DocumentTokens {
  std::string bos_token;  // empty: none
  std::string eos_token;
};
/// A document with its bos and eos, cut to cutoff_len; every token is labelled.
Example tokenize_document(const Tokenizer& tokenizer, const std::string& text, const DocumentTokens& tokens,
                          const TokenizeOptions& options);

}  // namespace polylora
