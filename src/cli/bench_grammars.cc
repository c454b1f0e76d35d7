// polylora bench grammars: what structured output costs, over a model's vocabulary.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/load.h"
#include "cli/values.h"
#include "grammar/matcher.h"
#include "load/load_metrics.h"
#include "serve/grammar_cache.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;
using grammar::CompiledGrammar;
using grammar::Matcher;
using grammar::TokenTrie;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

/// A grammar, and an output that it accepts.
struct Example {
  const char* name;
  StructuredOutput::Kind kind;
  const char* content;  // JSON
  const char* output;
};

constexpr Example kExamples[] = {
    {"schema, 10 fields", StructuredOutput::Kind::kJsonSchema,
     R"({"type": "object", "properties": {
       "order": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"}, "customer": {"type": "string"},
       "email": {"type": "string", "format": "email"}, "date": {"type": "string", "format": "date"},
       "status": {"enum": ["open", "paid", "sent", "returned"]}, "express": {"type": "boolean"},
       "total": {"type": "number", "minimum": 0}, "items": {"type": "array", "maxItems": 20, "items": {
         "type": "object", "properties": {"name": {"type": "string", "maxLength": 40},
         "count": {"type": "integer", "minimum": 1, "maximum": 99}}, "required": ["name", "count"]}},
       "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "rating": {"type": "integer"}},
       "required": ["order", "customer", "email", "date", "status", "express", "total", "items", "note", "rating"]})",
     R"({"order": "AB-123456", "customer": "Jane O'Neill of Galway", "email": "jane.oneill@example.org",)"
     R"( "date": "2026-02-11", "status": "returned", "express": false, "total": 129.95, "items": [{"name":)"
     R"( "rain coat, green", "count": 1}, {"name": "woollen socks", "count": 12}], "note": "Please ring the)"
     R"( bell twice; the dog is friendly.", "rating": 5})"},
    {"any JSON object", StructuredOutput::Kind::kJsonObject, "null",
     R"({"city": "Lisbon", "people": 545923, "seen": ["castle", "tram 28", {"museum": "tiles", "hours":)"
     R"( [10, 18.5]}], "again": true, "why": "The light, the hills and the food.", "not": null})"},
    {"regular expression", StructuredOutput::Kind::kRegex,
     R"("(\\+\\d{1,3} )?\\(\\d{2,4}\\) \\d{3,4}-\\d{4}( ext\\. \\d+)?, [A-Z][a-z]+( [A-Z][a-z]+)*")",
     "+353 (091) 555-0142 ext. 27, Mary Margaret Connolly"},
    {"choice of 6", StructuredOutput::Kind::kChoice,
     R"(["billing", "delivery", "returns and refunds", "technical support", "complaint", "other"])",
     "returns and refunds"},
};

/// Times in microseconds.
struct Costs {
  double compile = 0;
  std::vector<double> first;  // masks of configurations that nobody had asked for
  std::vector<double> known;
  std::vector<double> advance;
  CompiledGrammar::Usage usage;
};

/// The output's tokens once through the grammar.
void follow(const std::shared_ptr<CompiledGrammar>& compiled, const std::vector<int32_t>& tokens,
            Costs& costs) {
  Matcher matcher(compiled);
  for (const int32_t token : tokens) {
    const size_t masks = compiled->usage().masks;
    const Clock::time_point asked = Clock::now();
    matcher.allowed();
    const double mask_time = microseconds_since(asked);
    (compiled->usage().masks > masks ? costs.first : costs.known).push_back(mask_time);
    const Clock::time_point taken = Clock::now();
    const bool accepted = matcher.advance(token);
    costs.advance.push_back(microseconds_since(taken));
    check(accepted, "the example's output is not in its grammar");
  }
}

/// Twice the same output, as two requests would; a fresh grammar for each of `repeats`.
Costs measure(const Example& example, const Tokenizer& tokenizer,
              const std::shared_ptr<const TokenTrie>& trie, int repeats) {
  const StructuredOutput wish{example.kind, Json::parse(example.content)};
  const std::vector<int32_t> tokens = tokenizer.encode(example.output, false);
  Costs costs;
  std::vector<double> compile;
  for (int i = 0; i < repeats; ++i) {
    const Clock::time_point start = Clock::now();
    const auto compiled = std::make_shared<CompiledGrammar>(make_grammar(wish), trie);
    compile.push_back(microseconds_since(start));
    for (int request = 0; request < 2; ++request) follow(compiled, tokens, costs);
    costs.usage = compiled->usage();
  }
  costs.compile = percentile(compile, 50);
  return costs;
}

void print_costs(const Example& example, const Costs& costs, int repeats) {
  fmt::print("{:<20}{:>9.0f}{:>10}{:>9.0f}{:>9.0f}{:>10.2f}{:>10.2f}{:>8}{:>12}\n", example.name,
             costs.compile, costs.first.size() / static_cast<size_t>(repeats), percentile(costs.first, 50),
             percentile(costs.first, 100), percentile(costs.known, 50), percentile(costs.advance, 50),
             costs.usage.masks, format_bytes(costs.usage.bytes));
}

}  // namespace

int run_bench_grammars(const Arguments& arguments) {
  std::string model;
  int repeats = 20;
  FlagSet flags("bench grammars", "Measures token masks of structured output over a model's vocabulary.");
  flags.positional("model", model, "a tokenizer.json, a folder with one, or a .gguf file");
  flags.integer("--repeats", repeats, 1, "grammars made afresh, of each kind");
  if (!flags.parse(arguments)) return 0;

  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model);
  const Clock::time_point start = Clock::now();
  const std::shared_ptr<const TokenTrie> trie = make_token_trie(*tokenizer);
  fmt::print("{} tokens as a trie of {} nodes, made in {:.1f} ms\n\n", trie->vocab_size(),
             trie->nodes().size(), microseconds_since(start) / 1000);
  fmt::print("{:<20}{:>9}{:>28}{:>10}{:>10}{:>8}{:>12}\n", "times in us", "compile",
             "new masks: count, p50, max", "known", "advance", "masks", "memory");
  for (const Example& example : kExamples)
    print_costs(example, measure(example, *tokenizer, trie, repeats), repeats);
  return 0;
}

}  // namespace polylora
