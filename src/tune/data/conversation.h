// One record of a dataset, in the form that every later step works on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace polylora {

enum class Role : uint8_t { kUser, kAssistant, kObservation };

struct Message {
  Role role = Role::kUser;
  std::string content;
};

/// Usable by its stage: sft has one answer, dpo two (chosen, rejected), pt none and one prompt message.
struct Conversation {
  std::vector<Message> prompt;  // odd count: user (or observation), assistant, …, user
  std::vector<std::string> answers;
  std::string system;  // empty: none
  std::string file;    // where it comes from, for messages
  int64_t row = 0;     // in `file`, from 1
};

}  // namespace polylora
