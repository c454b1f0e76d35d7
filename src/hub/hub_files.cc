#include "hub/hub_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "base/error.h"

namespace polylora {
namespace {

using Names = std::vector<std::string>;

constexpr size_t kMostListed = 12;

bool has(const Names& files, std::string_view name) {
  return std::find(files.begin(), files.end(), name) != files.end();
}

/// In the repository's own folder: nothing that is needed lies deeper.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

bool is_text_file(const std::string& name) {
  constexpr std::string_view kNames[] = {"config.json",
                                         "generation_config.json",
                                         "chat_template.jinja",
                                         "chat_template.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "tekken.json"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         name.starts_with("tokenizer");
}

/// model.safetensors, or an index and its shards.
Names weight_files(const Names& files) {
  if (has(files, "model.safetensors")) return {"model.safetensors"};
  Names names;
  if (!has(files, "model.safetensors.index.json")) return names;
  names.emplace_back("model.safetensors.index.json");
  for (const std::string& name : files) {
    if (is_plain_name(name) && name.starts_with("model-") && name.ends_with(".safetensors"))
      names.push_back(name);
  }
  return names;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

Names gguf_files(const Names& files) {
  Names names;
  for (const std::string& name : files) {
    if (is_plain_name(name) && name.ends_with(".gguf")) names.push_back(name);
  }
  return names;
}

std::string listed(Names names) {
  const bool more = names.size() > kMostListed;
  if (more) names.resize(kMostListed);
  return fmt::format("{}{}", fmt::join(names, ", "), more ? ", …" : "");
}

/// Whether a quantisation's name stands in a file's name as a word: "model.Q4_K_M.gguf", "model-q8_0.gguf".
bool is_of_type(const std::string& file, const std::string& type) {
  const std::string name = upper(file), word = upper(type);
  const auto ends_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_'; };
  for (size_t at = name.find(word); at != std::string::npos; at = name.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || ends_word(name[at - 1])) && (end == name.size() || ends_word(name[end]))) return true;
  }
  return false;
}

Names choose_gguf(const HubId& id, const Names& files) {
  const Names there = gguf_files(files);
  if (has(there, id.file)) return {id.file};
  Names fitting;
  std::copy_if(there.begin(), there.end(), std::back_inserter(fitting),
               [&](const std::string& name) { return is_of_type(name, id.file); });
  if (fitting.size() == 1) return fitting;
  if (fitting.empty())
    fail(ErrorCode::kNotFound, "{} has no GGUF file for ':{}'; it has: {}", id.repo, id.file,
         there.empty() ? "none at all" : listed(there));
  fail(ErrorCode::kInvalidArgument, "':{}' fits several files of {}: {}; name one of them", id.file, id.repo,
       listed(fitting));
}

}  // namespace

Names choose_model_files(const HubId& id, const Names& files) {
  if (!id.file.empty()) return choose_gguf(id, files);
  Names names = weight_files(files);
  if (names.empty()) {
    const Names gguf = gguf_files(files);
    if (!gguf.empty())
      fail(ErrorCode::kInvalidArgument, "{} holds GGUF files; name one as {}:FILE, of {}", id.repo, id.repo,
           listed(gguf));
    if (has(files, "adapter_config.json"))
      fail(ErrorCode::kUnsupported, "{} is an adapter, not a base model", id.repo);
    if (has(files, "pytorch_model.bin") || has(files, "pytorch_model.bin.index.json"))
      fail(ErrorCode::kUnsupported,
           "{} holds pickled pytorch_model.bin files, which are not read; look for a revision with "
           "safetensors",
           id.repo);
    fail(ErrorCode::kNotFound, "{} has no model.safetensors", id.repo);
  }
  if (!has(files, "config.json")) fail(ErrorCode::kNotFound, "{} has no config.json", id.repo);
  for (const std::string& name : files) {
    if (is_plain_name(name) && is_text_file(name)) names.push_back(name);
  }
  return names;
}

Names choose_adapter_files(const HubId& id, const Names& files) {
  if (!id.file.empty())
    fail(ErrorCode::kInvalidArgument, "an adapter is a repository, not a file of one: drop ':{}'", id.file);
  if (!has(files, "adapter_config.json"))
    fail(ErrorCode::kNotFound, "{} has no adapter_config.json: it is not a PEFT adapter", id.repo);
  if (!has(files, "adapter_model.safetensors")) {
    const bool pickled = has(files, "adapter_model.bin");
    fail(pickled ? ErrorCode::kUnsupported : ErrorCode::kNotFound, "{} has no adapter_model.safetensors{}",
         id.repo, pickled ? "; its pickled adapter_model.bin is not read" : "");
  }
  return {"adapter_config.json", "adapter_model.safetensors"};
}

}  // namespace polylora
