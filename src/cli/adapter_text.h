// What the folder of an adapter says about text, read for the server (serve/adapter_texts.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "serve/server.h"
#include "text/tokenizer.h"

namespace polylora {

/// Thread-safe. Adapters that bring the same tokenizer share it.
class AdapterTextReader {
 public:
  /// `keep_chat_template`: the command line names the template, so that no adapter's counts.
  explicit AdapterTextReader(bool keep_chat_template) : keep_chat_template_(keep_chat_template) {}

  /// Empty when the folder changes nothing: it has none of the files, or they say what the base's say. Throws
  /// what reading them does, naming the folder.
  std::optional<OwnText> read(const std::filesystem::path& folder, const ServedModel& base);

 private:
  std::shared_ptr<const Tokenizer> own_tokenizer(const std::string& tokenizer_json,
                                                 const std::string& tokenizer_config_json,
                                                 const Tokenizer& base);

  const bool keep_chat_template_;
  std::mutex mutex_;
  /// By base and content; null: the same as the base's.
  std::map<std::pair<const Tokenizer*, uint64_t>, std::shared_ptr<const Tokenizer>> tokenizers_;
};

}  // namespace polylora
