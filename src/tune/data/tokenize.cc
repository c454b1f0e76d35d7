#include "tune/data/tokenize.h"

#include <algorithm>

#include "base/error.h"

namespace polylora {
namespace {

using Ids = std::vector<int32_t>;

std::vector<Message> with_answer(const Conversation& conversation, size_t answer) {
  std::vector<Message> messages = conversation.prompt;
  messages.push_back({Role::kAssistant, conversation.answers.at(answer)});
  return messages;
}

void cut(Turn& turn, size_t cutoff_len) {
  const TurnLengths kept = infer_seqlen(turn.prompt.size(), turn.answer.size(), cutoff_len);
  turn.prompt.resize(kept.prompt);
  turn.answer.resize(kept.answer);
}

/// `turn_index` counts in the order of processing: from the last turn with mask_history.
Ids prompt_labels(const Turn& turn, size_t turn_index, const TurnEncoder& encoder,
                  const TokenizeOptions& options) {
  if (options.train_on_prompt) return turn.prompt;
  Ids labels(turn.prompt.size(), kIgnoreIndex);
  // The answer before ends where this prompt begins: its eos is learned there.
  if (encoder.efficient_eos() && turn_index != 0 && !labels.empty()) labels[0] = encoder.eos_id().value();
  return labels;
}

void append(Ids& to, const Ids& ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

Example prompt_and_answer(const Turn& turn) {
  Example example;
  example.input_ids = turn.prompt;
  append(example.input_ids, turn.answer);
  example.labels.assign(turn.prompt.size(), kIgnoreIndex);
  append(example.labels, turn.answer);
  return example;
}

}  // namespace

TurnLengths infer_seqlen(size_t prompt, size_t answer, size_t cutoff_len) {
  size_t most_answer = 0;
  if (answer * 2 < cutoff_len) {
    most_answer = cutoff_len;
  } else if (prompt * 2 < cutoff_len) {
    most_answer = cutoff_len - prompt;
  } else {
    const double share = static_cast<double>(answer) / static_cast<double>(prompt + answer);
    most_answer = static_cast<size_t>(static_cast<double>(cutoff_len) * share);
  }
  const size_t kept_answer = std::min(most_answer, answer);
  return {std::min(cutoff_len - kept_answer, prompt), kept_answer};
}

Example tokenize_conversation(const TurnEncoder& encoder, const Conversation& conversation,
                              const TokenizeOptions& options) {
  std::vector<Turn> turns =
      encoder.encode_turns(with_answer(conversation, 0), conversation.system, options.mask_history);
  if (options.mask_history) std::reverse(turns.begin(), turns.end());
  const auto budget = static_cast<size_t>(options.cutoff_len);
  size_t total = encoder.efficient_eos() ? 1 : 0;
  std::vector<Example> pieces;
  for (Turn& turn : turns) {
    if (total >= budget) break;
    cut(turn, budget - total);
    total += turn.prompt.size() + turn.answer.size();
    const size_t index = pieces.size();
    Example piece = prompt_and_answer(turn);
    const Ids labels = prompt_labels(turn, index, encoder, options);
    std::copy(labels.begin(), labels.end(), piece.labels.begin());
    if (options.mask_history && index != 0) {
      std::fill(piece.labels.begin() + static_cast<std::ptrdiff_t>(labels.size()), piece.labels.end(),
                kIgnoreIndex);
    }
    pieces.push_back(std::move(piece));
  }
  if (options.mask_history) std::reverse(pieces.begin(), pieces.end());
  Example example;
  for (const Example& piece : pieces) {
    append(example.input_ids, piece.input_ids);
    append(example.labels, piece.labels);
  }
  if (encoder.efficient_eos()) {
    example.input_ids.push_back(encoder.eos_id().value());
    example.labels.push_back(encoder.eos_id().value());
  }
  return example;
}

PreferencePair tokenize_pair(const TurnEncoder& encoder, const Conversation& conversation,
                             const TokenizeOptions& options) {
  Turn chosen = encoder.encode_last(with_answer(conversation, 0), conversation.system);
  Turn rejected = encoder.encode_last(with_answer(conversation, 1), conversation.system);
  // With thinking turned off, an empty thought ends a prompt only when the answer has none of its own; the
  // chosen answer decides for both.
  rejected.prompt = chosen.prompt;
  if (encoder.efficient_eos()) {
    chosen.answer.push_back(encoder.eos_id().value());
    rejected.answer.push_back(encoder.eos_id().value());
  }
  const TurnLengths kept =
      infer_seqlen(chosen.prompt.size(), std::max(chosen.answer.size(), rejected.answer.size()),
                   static_cast<size_t>(options.cutoff_len));
  for (Turn* turn : {&chosen, &rejected}) {
    turn->prompt.resize(kept.prompt);
    turn->answer.resize(std::min(turn->answer.size(), kept.answer));
  }
  return {prompt_and_answer(chosen), prompt_and_answer(rejected)};
}

Example tokenize_document(const Tokenizer& tokenizer, const std::string& text, const DocumentTokens& tokens,
                          const TokenizeOptions& options) {
  Example example;
  example.input_ids = tokenizer.encode(tokens.bos_token + text + tokens.eos_token, false);
  if (example.input_ids.size() > static_cast<size_t>(options.cutoff_len))
    example.input_ids.resize(static_cast<size_t>(options.cutoff_len));
  example.labels = example.input_ids;
  return example;
}

}  // namespace polylora
