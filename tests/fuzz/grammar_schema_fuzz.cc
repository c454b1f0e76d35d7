// libFuzzer: an arbitrary JSON schema, and a walk through what it allows. Error or success only.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "grammar/configurations.h"
#include "grammar/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora::grammar;
  const auto schema = nlohmann::ordered_json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (schema.is_discarded()) return 0;
  try {
    const Automaton automaton(schema_grammar(schema));
    Configurations configurations(automaton);
    Configurations::Id at = configurations.start();
    for (size_t i = 0; i < 64 && at != Configurations::kDead && !configurations.must_end(at); ++i) {
      Configurations::Id next = Configurations::kDead;
      for (int byte = 0; byte < 256 && next == Configurations::kDead; ++byte)
        next = configurations.next(at, static_cast<uint8_t>(byte + data[i % size]));
      at = next;
    }
  } catch (const polylora::Error&) {
  }
  return 0;
}
