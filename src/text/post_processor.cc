#include "text/post_processor.h"

#include "base/error.h"
#include "text/tokenizer_json.h"

namespace polylora {
namespace {

using nlohmann::json;

[[noreturn]] void bad(std::string_view what) {
  fail(ErrorCode::kDataCorrupt, "tokenizer JSON: post_processor: {}", what);
}

void append_special(const json& component, const std::string& name, std::vector<int32_t>& out) {
  const auto table = component.find("special_tokens");
  if (table == component.end() || !table->is_object() || !table->contains(name)) {
    bad(fmt::format("special token '{}' is not defined", name));
  }
  const json& entry = (*table)[name];
  if (!entry.is_object() || !entry.contains("ids") || !entry["ids"].is_array()) {
    bad(fmt::format("special token '{}' has no 'ids'", name));
  }
  for (const json& id : entry["ids"]) {
    if (!id.is_number_integer()) bad("a special token id is not an integer");
    const auto value = id.get<int64_t>();
    if (value < 0 || value >= (1 << 24)) bad(fmt::format("special token id {} is out of range", value));
    out.push_back(static_cast<int32_t>(value));
  }
}

SpecialFrame template_frame(const json& component) {
  const auto single = component.find("single");
  if (single == component.end() || !single->is_array()) bad("TemplateProcessing has no 'single' list");
  SpecialFrame frame;
  bool seen_text = false;
  for (const json& piece : *single) {
    if (!piece.is_object()) bad("a template piece is not an object");
    if (piece.contains("Sequence")) {
      if (seen_text) bad("a template names the text twice");
      seen_text = true;
    } else if (piece.contains("SpecialToken")) {
      const std::string name = json_required_string(piece["SpecialToken"], "id", "template SpecialToken");
      append_special(component, name, seen_text ? frame.after : frame.before);
    } else {
      bad("a template piece is neither SpecialToken nor Sequence");
    }
  }
  if (!seen_text) bad("a template does not name the text");
  return frame;
}

/// Bert's and Roberta's: "cls" and "sep" are [spelling, id].
int32_t pair_id(const json& component, const char* key) {
  const auto it = component.find(key);
  if (it == component.end() || !it->is_array() || it->size() != 2 || !(*it)[1].is_number_integer()) {
    bad(fmt::format("'{}' must be [token, id]", key));
  }
  const auto value = (*it)[1].get<int64_t>();
  if (value < 0 || value >= (1 << 24)) bad(fmt::format("special token id {} is out of range", value));
  return static_cast<int32_t>(value);
}

}  // namespace

SpecialFrame make_special_frame(const json& component) {
  if (component.is_null()) return {};
  const std::string type = component_type(component, "post_processor");
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "TemplateProcessing") return template_frame(component);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return {{pair_id(component, "cls")}, {pair_id(component, "sep")}};
  }
  if (type == "Sequence") {
    const auto parts = component.find("processors");
    if (parts == component.end() || !parts->is_array()) bad("Sequence has no 'processors'");
    SpecialFrame frame;
    for (const json& part : *parts) {  // each wraps what the one before it made
      SpecialFrame outer = make_special_frame(part);
      frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
      frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
    }
    return frame;
  }
  fail(ErrorCode::kUnsupported, "tokenizer post_processor '{}' is not supported", type);
}

}  // namespace polylora
