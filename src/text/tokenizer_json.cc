#include "text/tokenizer_json.h"

#include "base/error.h"

namespace polylora {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 32;
constexpr int64_t kMaxTokenId = (1 << 24) - 1;  // an id sizes tables: bound what a file can make us allocate

/// nlohmann's SAX interface. `stack_` holds the open containers of the DOM part.
class Reader final : public nlohmann::json_sax<json> {
 public:
  TokenizerJson take() { return std::move(out_); }

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return integer(value > static_cast<number_unsigned_t>(INT64_MAX) ? INT64_MAX
                                                                     : static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return false; }

  bool string(string_t& value) override {
    if (mode_ == Mode::kMerges) return merge_line(value);
    if (mode_ == Mode::kMergePair) {
      if (pair_size_ >= 2) bad("a merge must have two parts");
      (pair_size_++ == 0 ? out_.merges.back().first : out_.merges.back().second) = std::move(value);
      return true;
    }
    return scalar(std::move(value));
  }

  bool start_object(std::size_t) override {
    if (mode_ != Mode::kDom) bad("unexpected object in model.vocab or model.merges");
    if (in_model() && key_ == "vocab") {
      mode_ = Mode::kVocab;
      return true;
    }
    return open(json::object());
  }

  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }

  bool end_object() override {
    if (mode_ == Mode::kVocab) {
      mode_ = Mode::kDom;
      return true;
    }
    return close();
  }

  bool start_array(std::size_t) override {
    if (mode_ == Mode::kMerges) {
      out_.merges.emplace_back();
      pair_size_ = 0;
      mode_ = Mode::kMergePair;
      return true;
    }
    if (mode_ != Mode::kDom) bad("unexpected array in model.vocab or model.merges");
    if (in_model() && key_ == "merges") {
      mode_ = Mode::kMerges;
      return true;
    }
    return open(json::array());
  }

  bool end_array() override {
    if (mode_ == Mode::kMergePair) {
      if (pair_size_ != 2) bad("a merge must have two parts");
      mode_ = Mode::kMerges;
      return true;
    }
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kDom;
      return true;
    }
    return close();
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON is invalid at byte {}: {}", position, e.what());
  }

 private:
  enum class Mode { kDom, kVocab, kMerges, kMergePair };

  [[noreturn]] static void bad(std::string_view what) {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: {}", what);
  }

  bool in_model() const { return stack_.size() == 2 && model_open_ && stack_.back()->is_object(); }

  bool integer(int64_t value) {
    if (mode_ != Mode::kVocab) return scalar(value);
    if (value < 0 || value > kMaxTokenId) {
      fail(ErrorCode::kDataCorrupt, "tokenizer JSON: token '{}' has id {}, which is out of range", key_,
           value);
    }
    out_.vocab.emplace_back(std::move(key_), static_cast<int32_t>(value));
    return true;
  }

  bool scalar(json value) {
    if (mode_ != Mode::kDom) bad("unexpected value in model.vocab or model.merges");
    place(std::move(value));
    return true;
  }

  bool merge_line(const std::string& line) {
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      bad(fmt::format("merge '{}' must be two parts separated by one space", line));
    }
    out_.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    return true;
  }

  json* place(json value) {
    if (stack_.empty()) {
      out_.rest = std::move(value);
      return &out_.rest;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool open(json container) {
    if (stack_.size() >= kMaxDepth) bad(fmt::format("nested deeper than {} levels", kMaxDepth));
    if (stack_.size() == 1) model_open_ = key_ == "model" && stack_[0]->is_object();
    stack_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    stack_.pop_back();
    return true;
  }

  TokenizerJson out_;
  std::vector<json*> stack_;  // stable: only the innermost container grows while it is open
  std::string key_;
  bool model_open_ = false;
  int pair_size_ = 0;
  Mode mode_ = Mode::kDom;
};

const json* find_member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text) {
  Reader reader;
  if (!json::sax_parse(text, &reader)) fail(ErrorCode::kDataCorrupt, "tokenizer JSON is invalid");
  TokenizerJson out = reader.take();
  if (!out.rest.is_object()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON is not an object");
  return out;
}

bool json_flag(const json& object, const char* key, bool fallback) {
  const json* member = find_member(object, key);
  if (member == nullptr) return fallback;
  if (!member->is_boolean()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: '{}' must be true or false", key);
  return member->get<bool>();
}

std::string json_string(const json& object, const char* key, std::string_view fallback) {
  const json* member = find_member(object, key);
  if (member == nullptr) return std::string(fallback);
  if (!member->is_string()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: '{}' must be a string", key);
  return member->get<std::string>();
}

std::string json_required_string(const json& object, const char* key, std::string_view where) {
  if (find_member(object, key) == nullptr) {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: {} has no '{}'", where, key);
  }
  return json_string(object, key, {});
}

int64_t json_int(const json& object, const char* key, int64_t fallback, int64_t low, int64_t high) {
  const json* member = find_member(object, key);
  if (member == nullptr) return fallback;
  if (!member->is_number_integer()) {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: '{}' must be an integer", key);
  }
  const auto value = member->get<int64_t>();
  if (value < low || value > high) {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: '{}' is {}, outside {}..{}", key, value, low, high);
  }
  return value;
}

std::string component_type(const json& component, std::string_view kind) {
  if (!component.is_object()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: {} must be an object", kind);
  return json_required_string(component, "type", kind);
}

}  // namespace polylora
