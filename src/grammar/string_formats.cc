#include "grammar/string_formats.h"

#include <array>
#include <utility>

namespace polylora::grammar {
namespace {

#define POLYLORA_DATE                                                                               \
  "[12]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|" \
  "1\\d|2[0-8]))"
#define POLYLORA_TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define POLYLORA_HOST "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,3}"

constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kPatterns = {{
    {"date-time", POLYLORA_DATE "T" POLYLORA_TIME},
    {"date", POLYLORA_DATE},
    {"time", POLYLORA_TIME},
    {"duration", "P(\\d{1,4}Y)?(\\d{1,2}M)?(\\d{1,3}D|\\d{1,3}DT\\d{1,2}H(\\d{1,2}M)?|T\\d{1,3}[HMS])"},
    {"email", "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32}){0,3}@" POLYLORA_HOST},
    {"hostname", POLYLORA_HOST},
    {"ipv4", "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)(\\.(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)){3}"},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
    {"uri", "[a-z][a-z0-9+.-]{0,15}://" POLYLORA_HOST "(:\\d{1,4})?(/[A-Za-z0-9._~!$&'()*+,;=:@/-]*)?"
            "(\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?(#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?"},
}};

}  // namespace

std::string_view format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : kPatterns)
    if (name == format) return pattern;
  return {};
}

}  // namespace polylora::grammar
