#include "cli/adapter_text.h"

#include <span>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "cli/load.h"
#include "io/hf_checkpoint.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxTokenizers = 256;

bool same_vocabulary(const Tokenizer& a, const Tokenizer& b) {
  if (a.vocab_size() != b.vocab_size()) return false;
  for (int32_t id = 0; id < a.vocab_size(); ++id) {
    if (a.token_string(id) != b.token_string(id) || a.is_special(id) != b.is_special(id)) return false;
  }
  return true;
}

uint64_t hash_of(const std::string& text, uint64_t seed = 0) {
  return hash_bytes(std::as_bytes(std::span(text)), seed);
}

/// What ends an answer besides what ends the base's: the adapter's own eos_token, and what its
/// generation_config.json names instead of all.
void set_eos(const TextAssets& assets, const fs::path& folder, ServedModel& model) {
  if (assets.generation_config.contains("eos_token_id")) {
    const std::string where = (folder / "generation_config.json").string() + ": 'eos_token_id'";
    model.eos_token_ids = parse_token_ids(assets.generation_config["eos_token_id"], where);
    return;
  }
  if (assets.eos_token.empty() || assets.eos_token == model.eos_token || model.tokenizer == nullptr) return;
  if (const auto id = model.tokenizer->token_to_id(assets.eos_token)) model.eos_token_ids.push_back(*id);
}

}  // namespace

std::optional<OwnText> AdapterTextReader::read(const fs::path& folder, const ServedModel& base) {
  if (!fs::is_directory(folder)) return std::nullopt;
  const TextAssets assets = read_hf_text_assets(folder);
  OwnText own{.model = base, .tokenizer = {}, .chat_template = {}};
  if (base.tokenizer != nullptr && !assets.tokenizer_json.empty()) {
    own.tokenizer = own_tokenizer(assets.tokenizer_json, assets.tokenizer_config_json, *base.tokenizer);
    if (own.tokenizer != nullptr) own.model.tokenizer = own.tokenizer.get();
  }
  const std::string base_template = base.chat_template == nullptr ? "" : base.chat_template->source();
  const bool speaks_differently = !assets.chat_template.empty() && assets.chat_template != base_template;
  if (base.tokenizer != nullptr && speaks_differently && !keep_chat_template_) {
    own.chat_template = std::make_shared<const ChatTemplate>(assets.chat_template);
    own.model.chat_template = own.chat_template.get();
  }
  set_eos(assets, folder, own.model);
  if (!assets.bos_token.empty()) own.model.bos_token = assets.bos_token;
  if (!assets.eos_token.empty()) own.model.eos_token = assets.eos_token;
  take_generation_defaults(assets.generation_config, own.model);
  const bool changes = own.tokenizer != nullptr || own.chat_template != nullptr ||
                       own.model.bos_token != base.bos_token || own.model.eos_token != base.eos_token ||
                       !assets.generation_config.empty();
  return changes ? std::optional(std::move(own)) : std::nullopt;
}

std::shared_ptr<const Tokenizer> AdapterTextReader::own_tokenizer(const std::string& tokenizer_json,
                                                                  const std::string& tokenizer_config_json,
                                                                  const Tokenizer& base) {
  const std::pair key(&base, hash_of(tokenizer_json, hash_of(tokenizer_config_json)));
  const std::scoped_lock lock(mutex_);
  if (const auto found = tokenizers_.find(key); found != tokenizers_.end()) return found->second;
  std::shared_ptr<const Tokenizer> own = Tokenizer::from_json(tokenizer_json, tokenizer_config_json);
  if (same_vocabulary(*own, base)) own = nullptr;
  if (tokenizers_.size() >= kMaxTokenizers) tokenizers_.clear();
  return tokenizers_[key] = own;
}

}  // namespace polylora
