// How the byte-level BPE vocabularies of GGUF files cut texts into words: tokenizer.ggml.pre.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace polylora {

/// What a name stands for (llama.cpp's llama_vocab::impl::load); a new one is a new row.
struct GgufPreTokenizer {
  std::string_view name;
  std::span<const std::string_view>
      splits;                  // regexes, each applied to the pieces that the one before it left
  bool nfc = false;            // HF's tokenizer of these models normalises
  bool ignore_merges = false;  // a word that is a token is that token
  bool add_bos = false;        // where the file does not say

  /// The "pre_tokenizer" of tokenizer.json.
  nlohmann::ordered_json to_json() const;
};

/// Throws kUnsupported naming `file` and the known names.
const GgufPreTokenizer& find_gguf_pre_tokenizer(std::string_view name, const std::string& file);

/// The reverse: the name for a tokenizer.json's "pre_tokenizer"; empty where there is none.
std::string_view gguf_name_of_pre_tokenizer(const nlohmann::json& pre_tokenizer);

}  // namespace polylora
