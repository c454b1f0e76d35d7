// The named prompt formats ("templates") of LLaMA-Factory: what stands around each message of a conversation.
// Names, strings and rules are those of its data/template.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// A piece of a format. Every piece is tokenised on its own, so where pieces end changes the token ids.
struct Slot {
  enum class Kind : uint8_t {
    kText,  // `text`, its "{{content}}" replaced by the message
    kBos,   // the tokenizer's bos token; nothing when it has none
    kEos,   // the eos token (after replace_eos)
  };
  Kind kind = Kind::kText;
  std::string text;
};

struct ChatFormat {
  std::string name;
  std::vector<Slot> prefix;  // before everything
  std::vector<Slot> system, user, observation, assistant;
  std::string default_system;           // for conversations without a system message; empty: none
  std::vector<std::string> stop_words;  // end an answer, besides the eos token
  bool efficient_eos = false;   // answers carry no eos; one is appended to the whole conversation, and a next
                                // turn's first prompt token is labelled with it
  bool replace_eos = false;     // the first stop word becomes the eos token
  bool system_in_user = false;  // the system text is put in front of the first user message's content
  bool reasoning = false;       // answers without a thought get an empty one
  std::string thought_open = "<think>\n", thought_close = "\n</think>\n\n";
};

/// The names that find_chat_format knows, sorted.
const std::vector<std::string>& chat_format_names();

/// Throws kInvalidArgument for an unknown name, with the nearest ones.
const ChatFormat& find_chat_format(std::string_view name);

}  // namespace polylora
