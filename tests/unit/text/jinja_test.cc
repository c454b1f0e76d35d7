// The template language against Jinja 3.1.6 (set up as transformers does): tests/data/text/jinja_cases.json
// holds templates with what Jinja made of them, or the error it raised.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "text/chat_template.h"

namespace polylora {
namespace {

using nlohmann::ordered_json;

TEST(Jinja, AgreesWithReference) {
  const ordered_json file =
      ordered_json::parse(read_text_file(std::string(POLYLORA_TEST_DATA) + "/text/jinja_cases.json"));
  ChatTemplate::Options options;
  options.extra_kwargs = file["context"];
  for (const ordered_json& c : file["cases"]) {
    std::string got, error;
    try {
      got = ChatTemplate(c["template"].get<std::string>()).render(file["context"]["messages"], options);
    } catch (const Error& e) {
      error = e.what();
    }
    if (c.contains("expected")) {
      EXPECT_EQ(error, "") << c["template"];
      EXPECT_EQ(got, c["expected"].get<std::string>()) << c["template"];
    } else {
      EXPECT_NE(error, "") << c["template"] << " should fail with " << c["error"] << " but made " << got;
    }
  }
}

std::string error_of(std::string_view source) {
  try {
    ChatTemplate(source).render(ordered_json::array(), {});
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Jinja, ErrorsNameTheLine) {
  EXPECT_EQ(error_of("a\nb {{ x"), "chat template, line 2: a tag is not closed with '}}'");
  EXPECT_EQ(error_of("\n\n{{ x.y }}"), "chat template, line 3: 'x' is undefined");
  EXPECT_EQ(error_of("{{ raise_exception('No ' ~ 'way') }}"), "No way");
}

TEST(Jinja, HostileTemplatesEndInAnError) {
  const std::string loop = "{% for a in range(99999) %}";
  const std::string deep(100'000, '(');
  std::string chain = "{{ 1", elifs = "{% if 0 %}";
  for (int i = 0; i < 100'000; ++i) chain += " + 1";
  const std::string nots = "{{ " + [] {
    std::string s;
    for (int i = 0; i < 100'000; ++i) s += "not ";
    return s;
  }() + "1 }}";
  const std::vector<std::string> templates = {
      loop + loop + loop + "{% endfor %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{% if 1 %}{% for i in [1] %}{{ [f(x)][0] | upper }}{% endfor %}{% endif %}{% endmacro "
      "%}{{ f(1) }}",
      "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}" + loop + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[1]) %}" + loop + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[1]) %}" + loop + "{% set ns.s = [ns.s] %}{% endfor %}",
      "{% set ns = namespace(s=1) %}" + loop + "{% set ns.s = cycler(ns.s) %}{% endfor %}",
      "{% set ns = namespace(s='x') %}" + loop + "{% set ns.s = [ns.s].index %}{% endfor %}",
      "{{ 'a' * 9999999999 }}",
      "{{ [0] * 9999999999 }}",
      "{{ 'a'.center(9999999999) }}",
      "{{ 'a' | indent(9999999999) }}",
      "{{ '%9999999999d' % 1 }}",
      "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
      "{{ (['a' * 1000000] * 1000) | join }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 100000 }}",
      "{{ range(9223372036854775807) }}",
      "{{ " + deep + "1",
      "{{ " + std::string(100'000, '[') + "1",
      "{{ " + std::string(100'000, '-') + "1 }}",
      "{{ x" +
          [] {
            std::string s;
            for (int i = 0; i < 100'000; ++i) s += ".x";
            return s;
          }() +
          " }}",
      "{{ x" +
          [] {
            std::string s;
            for (int i = 0; i < 100'000; ++i) s += "|e";
            return s;
          }() +
          " }}",
      chain + " }}",
      nots,
      [] {
        std::string s;
        for (int i = 0; i < 100'000; ++i) s += "{% if 1 %}";
        return s;
      }(),
  };
  for (const std::string& source : templates)
    EXPECT_NE(error_of(source), "no error") << source.substr(0, 100);
}

TEST(Jinja, SelfReferencesDoNotLeakOrOverflow) {
  const std::string loop = "{% for a in range(50000) %}";
  for (const std::string& source : std::vector<std::string>{
           "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
           "{% set ns = namespace() %}" + loop +
               "{% set p = ns.l %}{% for b in [1] %}{% set ns.l = loop %}{% endfor %}{% endfor %}",
           "{% set ns = namespace() %}" + loop +
               "{% set p = ns.m %}{% macro m() %}{{ p }}{% endmacro %}{% set ns.m = m %}{% endfor %}",
           "{% set ns = namespace() %}" + loop + "{% set ns = namespace(x=ns) %}{% endfor %}"}) {
    error_of(source);
  }
}

}  // namespace
}  // namespace polylora
