#include "serve/output_assembler.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "serve/stop_strings.h"
#include "text/utf8.h"

namespace polylora {

namespace {

template <typename T>
void move_append(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

std::string TokenNames::bytes(int32_t id) const {
  if (as_ids_ || tokenizer_ == nullptr) return fmt::format("token_id:{}", id);
  return tokenizer_->token_bytes(id);
}

std::string TokenNames::name(int32_t id) const {
  return to_valid_utf8(bytes(id));
}

std::string TokenNames::text(int32_t id) const {
  return tokenizer_ == nullptr ? std::string() : to_valid_utf8(tokenizer_->token_bytes(id));
}

void ChoiceDelta::append(ChoiceDelta&& next) {
  text += next.text;
  append_tool_calls(tool_calls, std::move(next.tool_calls));
  move_append(token_ids, next.token_ids);
  move_append(logprobs, next.logprobs);
  move_append(prompt_logprobs, next.prompt_logprobs);
  if (next.end) end = std::move(next.end);
}

OutputAssembler::OutputAssembler(const Tokenizer* tokenizer, const TokenNames& names, OutputOptions options)
    : tokenizer_(tokenizer), names_(names), options_(std::move(options)) {
  if (tokenizer_ != nullptr) decoder_.emplace(*tokenizer_, options_.skip_special_tokens);
}

ChoiceDelta OutputAssembler::take(Event&& event) {
  ChoiceDelta delta;
  if (!began_) begin(event, delta);
  // The token that ended the generation (eos or one of stop_token_ids) is counted but not shown.
  const bool ends_in_stop_token = event.finish && event.finish->reason == FinishReason::kStop && !stopped() &&
                                  !options_.include_stop_str_in_output;
  for (size_t i = 0; i < event.tokens.size() && !stopped(); ++i)
    take_token(std::move(event.tokens[i]), ends_in_stop_token && i + 1 == event.tokens.size(), delta);
  if (event.finish) {
    if (decoder_ && !stopped()) add_text(decoder_->flush());
    release(true, delta);
    ChoiceEnd end{event.finish->reason, stop_string_, event.finish->stop_token_id};
    if (stopped()) end = ChoiceEnd{FinishReason::kStop, stop_string_, std::nullopt};
    delta.end = std::move(end);
  } else {
    release(stopped(), delta);
  }
  return delta;
}

void OutputAssembler::begin(Event& event, ChoiceDelta& delta) {
  began_ = true;
  delta.text = options_.echo;
  if (options_.logprobs) {
    for (size_t i = 0; i < options_.echo_tokens.size() && i < event.prompt_logprobs.size(); ++i)
      report(options_.echo_tokens[i], event.prompt_logprobs[i], delta);
  }
  delta.prompt_logprobs = std::move(event.prompt_logprobs);
}

void OutputAssembler::take_token(TokenOutput&& token, bool hide_text, ChoiceDelta& delta) {
  if (options_.prompt_only) return;
  ++token_count_;
  delta.token_ids.push_back(token.id);
  if (options_.logprobs) report(token.id, std::move(token.logprobs), delta);
  if (decoder_ && !hide_text) add_text(decoder_->push(token.id));
}

void OutputAssembler::add_text(std::string_view piece) {
  held_ += piece;
  if (options_.stop.empty()) return;
  if (token_count_ > options_.min_tokens) {
    if (const std::optional<StopMatch> match = find_stop(held_, held_checked_, options_.stop)) {
      stop_string_ = match->stop;
      held_.resize(match->begin + (options_.include_stop_str_in_output ? match->length : 0));
      return;
    }
  }
  held_checked_ = held_.size();
}

void OutputAssembler::release(bool all, ChoiceDelta& delta) {
  const size_t kept = all ? 0 : partial_stop(held_, options_.stop);
  const size_t released = held_.size() - kept;
  delta.text.append(held_, 0, released);
  held_.erase(0, released);
  held_checked_ = held_.size();
}

void OutputAssembler::report(int32_t id, std::vector<TokenLogprob> top, ChoiceDelta& delta) {
  delta.logprobs.push_back({id, name_offset_, std::move(top)});
  name_offset_ += utf8_length(names_.name(id));
}

}  // namespace polylora
