// libFuzzer: an arbitrary regular expression. Error or success only; what it allows first must be finishable.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "grammar/configurations.h"
#include "grammar/regex_grammar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora::grammar;
  const std::string_view pattern(reinterpret_cast<const char*>(data), size);
  try {
    for (const TextForm form : {TextForm::kPlain, TextForm::kJsonString}) {
      Grammar grammar;
      grammar.add(regex_expression(pattern, RegexMatch::kAnywhere, form));
      const Automaton automaton(grammar);
      Configurations configurations(automaton);
      Configurations::Id at = configurations.start();
      for (size_t i = 0; i < size && at != Configurations::kDead; ++i) at = configurations.next(at, data[i]);
    }
  } catch (const polylora::Error&) {
  }
  return 0;
}
