#include "tune/merge/ollama_modelfile.h"

#include <map>

#include "base/error.h"

namespace polylora {
namespace {

/// A format's pieces with `variable` in the message's place.
std::string go_text(const std::vector<Slot>& slots, const ChatFormat& format, const ModelText& model,
                    const std::string& variable) {
  constexpr std::string_view kPlaceholder = "{{content}}";
  std::string result;
  for (const Slot& slot : slots) {
    if (slot.kind == Slot::Kind::kBos) result += model.bos_token;
    if (slot.kind == Slot::Kind::kEos) result += eos_token_of(format, model);
    const size_t at = slot.text.find(kPlaceholder);
    result += slot.text.substr(0, at);
    if (at != std::string::npos) {
      result += "{{ " + variable + " }}";
      result += slot.text.substr(at + kPlaceholder.size());
    }
  }
  return result;
}

/// Go strings within three quotes know no escapes.
std::string triple_quoted(const std::string& text) {
  if (text.find("\"\"\"") != std::string::npos)
    fail(ErrorCode::kUnsupported, "the chat format holds three quotes, which a Modelfile cannot");
  return "\"\"\"" + text + "\"\"\"";
}

}  // namespace

std::vector<std::string> stop_tokens(const ChatFormat& format, const Tokenizer& tokenizer,
                                     const ModelText& model) {
  std::vector<std::string> words = format.stop_words;
  words.push_back(eos_token_of(format, model));
  std::map<int32_t, std::string> by_id;
  for (const std::string& word : words) {
    if (const auto id = tokenizer.token_to_id(word); id && !word.empty()) by_id[*id] = word;
  }
  std::vector<std::string> result;
  for (const auto& [id, word] : by_id) result.push_back(word);
  return result;
}

std::string ollama_modelfile(const ChatFormat& format, const Tokenizer& tokenizer, const ModelText& model) {
  std::string go = go_text(format.prefix, format, model, "");
  if (!format.system.empty())
    go += "{{ if .System }}" + go_text(format.system, format, model, ".System") + "{{ end }}";
  go += "{{ range .Messages }}{{ if eq .Role \"user\" }}" + go_text(format.user, format, model, ".Content") +
        "{{ else if eq .Role \"assistant\" }}" + go_text(format.assistant, format, model, ".Content") +
        "{{ end }}{{ end }}";
  std::string file =
      "# Ollama Modelfile, written by polylora export\n\nFROM .\n\nTEMPLATE " + triple_quoted(go) + "\n\n";
  if (!format.default_system.empty()) file += "SYSTEM " + triple_quoted(format.default_system) + "\n\n";
  for (const std::string& stop : stop_tokens(format, tokenizer, model))
    file += "PARAMETER stop \"" + stop + "\"\n";
  return file + "PARAMETER num_ctx 4096\n";
}

}  // namespace polylora
