#include "grammar/automaton.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace polylora::grammar {

/// Thompson's construction: every expression becomes arcs between two given states.
class Automaton::Builder {
 public:
  explicit Builder(const Grammar& grammar) {
    for (size_t i = 0; i < grammar.rules.size(); ++i) rules.push_back({new_state(), new_state()});
    for (size_t i = 0; i < grammar.rules.size(); ++i) add(*grammar.rules[i], rules[i].start, rules[i].end);
    std::ranges::stable_sort(arcs, {}, &Arc::from);
  }

  std::vector<Rule> rules;
  std::vector<Arc> arcs;
  uint32_t state_count = 0;

 private:
  uint32_t new_state() {
    if (state_count == kMaxStates) fail_too_large();
    return state_count++;
  }

  [[noreturn]] static void fail_too_large() {
    fail(ErrorCode::kInvalidArgument,
         "the grammar is too large; lower its bounds of repetition, or its number of alternatives");
  }

  void add_arc(Arc arc) {
    if (arcs.size() == kMaxArcs) fail_too_large();
    arcs.push_back(arc);
  }

  void skip(uint32_t from, uint32_t to) { add_arc({.from = from, .to = to}); }

  void read(uint32_t from, uint32_t to, uint8_t first, uint8_t last) {
    add_arc({.from = from, .to = to, .first = first, .last = last, .kind = Arc::Kind::kBytes});
  }

  void add(const Expression& expression, uint32_t from, uint32_t to) {
    switch (expression.kind) {
      case Expression::Kind::kBytes:
        return read(from, to, expression.first, expression.last);
      case Expression::Kind::kLiteral:
        return add_literal(expression.text, from, to);
      case Expression::Kind::kSequence:
        return add_sequence(expression.parts, from, to);
      case Expression::Kind::kAnyOf:
        for (const Expr& part : expression.parts) add(*part, from, to);
        return;
      case Expression::Kind::kRepeat:
        return add_repeat(expression, from, to);
      case Expression::Kind::kRule:
        return add_arc({.from = from,
                        .to = to,
                        .rule = static_cast<uint32_t>(expression.rule),
                        .kind = Arc::Kind::kCall});
    }
  }

  void add_literal(const std::string& text, uint32_t from, uint32_t to) {
    if (text.empty()) return skip(from, to);
    for (size_t i = 0; i < text.size(); ++i) {
      const uint32_t next = i + 1 == text.size() ? to : new_state();
      const auto byte = static_cast<uint8_t>(text[i]);
      read(from, next, byte, byte);
      from = next;
    }
  }

  void add_sequence(const std::vector<Expr>& parts, uint32_t from, uint32_t to) {
    if (parts.empty()) return skip(from, to);
    for (size_t i = 0; i < parts.size(); ++i) {
      const uint32_t next = i + 1 == parts.size() ? to : new_state();
      add(*parts[i], from, next);
      from = next;
    }
  }

  void add_repeat(const Expression& expression, uint32_t from, uint32_t to) {
    const Expression& part = *expression.parts.front();
    for (size_t i = 0; i < expression.min; ++i) from = add_next(part, from);
    if (!expression.max) {
      // A state of its own, which nothing else leads into or out of, holds the loop.
      const uint32_t loop = new_state();
      skip(from, loop);
      add(part, loop, loop);
      return skip(loop, to);
    }
    for (size_t i = expression.min; i < *expression.max; ++i) {
      skip(from, to);
      from = add_next(part, from);
    }
    skip(from, to);
  }

  uint32_t add_next(const Expression& part, uint32_t from) {
    const uint32_t next = new_state();
    add(part, from, next);
    return next;
  }
};

Automaton::Automaton(const Grammar& grammar) {
  Builder builder(grammar);
  rules_ = std::move(builder.rules);
  arcs_ = std::move(builder.arcs);
  drop_dead_ends(builder.state_count);
  offsets_.assign(builder.state_count + 1, 0);
  reads_.assign(builder.state_count, false);
  ends_.assign(builder.state_count, false);
  for (const Arc& arc : arcs_) {
    ++offsets_[arc.from + 1];
    if (arc.kind == Arc::Kind::kBytes) reads_[arc.from] = true;
  }
  for (size_t i = 1; i < offsets_.size(); ++i) offsets_[i] += offsets_[i - 1];
  for (const Rule& rule : rules_) ends_[rule.end] = true;
  classify_bytes();
  refuse_left_recursion();
}

/// Keeps the arcs from which the end of their rule can be reached: then every text that was begun can be
/// finished.
void Automaton::drop_dead_ends(uint32_t state_count) {
  std::vector<std::vector<uint32_t>> into(state_count), calls(rules_.size());
  std::vector<std::vector<uint32_t>> started_by(state_count);  // rules
  for (uint32_t i = 0; i < arcs_.size(); ++i) {
    into[arcs_[i].to].push_back(i);
    if (arcs_[i].kind == Arc::Kind::kCall) calls[arcs_[i].rule].push_back(i);
  }
  for (uint32_t i = 0; i < rules_.size(); ++i) started_by[rules_[i].start].push_back(i);

  std::vector<bool> finishes(state_count, false);
  const auto leads_on = [&](const Arc& arc) {
    return finishes[arc.to] && (arc.kind != Arc::Kind::kCall || finishes[rules_[arc.rule].start]);
  };
  std::vector<uint32_t> found;
  const auto mark = [&](uint32_t state) {
    if (finishes[state]) return;
    finishes[state] = true;
    found.push_back(state);
  };
  for (const Rule& rule : rules_) mark(rule.end);
  while (!found.empty()) {
    const uint32_t state = found.back();
    found.pop_back();
    const auto look_at = [&](const std::vector<uint32_t>& arcs) {
      for (const uint32_t i : arcs)
        if (leads_on(arcs_[i])) mark(arcs_[i].from);
    };
    look_at(into[state]);
    for (const uint32_t rule : started_by[state]) look_at(calls[rule]);
  }
  if (!finishes[rules_.front().start]) fail(ErrorCode::kInvalidArgument, "no text can match the grammar");
  std::erase_if(arcs_, [&](const Arc& arc) { return !leads_on(arc); });
}

std::span<const Arc> Automaton::arcs(uint32_t state) const {
  return std::span(arcs_).subspan(offsets_[state], offsets_[state + 1] - offsets_[state]);
}

void Automaton::classify_bytes() {
  std::array<bool, 257> begins{};  // a class begins at this byte
  for (const Arc& arc : arcs_) {
    if (arc.kind != Arc::Kind::kBytes) continue;
    begins[arc.first] = true;
    begins[static_cast<size_t>(arc.last) + 1] = true;
  }
  size_t count = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && begins[byte]) ++count;
    classes_[byte] = static_cast<uint8_t>(count);
  }
  class_count_ = count + 1;
}

/// A rule that can call itself before it has read a byte could do so for ever. Both loops run backwards,
/// since rules mostly call later ones: then one or two rounds are enough.
void Automaton::refuse_left_recursion() const {
  std::vector<bool> nullable(rules_.size(), false);
  std::vector<std::vector<uint32_t>> calls(rules_.size());  // before anything is read
  std::vector<size_t> seen_by(offsets_.size(), 0);
  size_t visit = 0;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t number = rules_.size(); number-- > 0;) {
      ++visit;
      std::vector<uint32_t> reached = {rules_[number].start};
      calls[number].clear();
      for (size_t i = 0; i < reached.size(); ++i) {
        for (const Arc& arc : arcs(reached[i])) {
          if (arc.kind == Arc::Kind::kBytes) continue;
          if (arc.kind == Arc::Kind::kCall) calls[number].push_back(arc.rule);
          if (arc.kind == Arc::Kind::kCall && !nullable[arc.rule]) continue;
          if (std::exchange(seen_by[arc.to], visit) != visit) reached.push_back(arc.to);
        }
      }
      if (seen_by[rules_[number].end] == visit && !nullable[number]) nullable[number] = changed = true;
    }
  }
  std::vector<bool> done(rules_.size(), false);  // everything it calls first is done
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t number = rules_.size(); number-- > 0;) {
      if (done[number]) continue;
      if (!std::ranges::all_of(calls[number], [&](uint32_t callee) { return done[callee]; })) continue;
      done[number] = changed = true;
    }
  }
  if (std::ranges::find(done, false) != done.end())
    fail(ErrorCode::kInvalidArgument, "the grammar refers to itself without reading anything in between");
}

}  // namespace polylora::grammar
