// What the grammar tests share: whether a grammar accepts a text, and texts that it makes up.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/configurations.h"

namespace polylora::grammar {

inline bool accepts(const Grammar& grammar, std::string_view text) {
  const Automaton automaton(grammar);
  Configurations configurations(automaton);
  Configurations::Id at = configurations.start();
  for (const char byte : text) at = configurations.next(at, static_cast<uint8_t>(byte));
  return at != Configurations::kDead && configurations.may_end(at);
}

/// A text made of bytes that the grammar allowed one by one. It ends when it must, or with probability
/// 1 / `length` per byte where it may; empty and `finished` false when that took too long.
struct RandomText {
  std::string text;
  bool finished = false;
};
inline RandomText random_text(const Grammar& grammar, uint64_t seed, int length = 8) {
  std::mt19937_64 random(seed);
  const Automaton automaton(grammar);
  Configurations configurations(automaton);
  Configurations::Id at = configurations.start();
  RandomText result;
  while (result.text.size() < 4000) {
    if (configurations.must_end(at) ||
        (configurations.may_end(at) && random() % static_cast<uint64_t>(length) == 0)) {
      result.finished = true;
      break;
    }
    std::vector<uint8_t> allowed;
    for (int byte = 0; byte < 256; ++byte)
      if (configurations.next(at, static_cast<uint8_t>(byte)) != Configurations::kDead)
        allowed.push_back(static_cast<uint8_t>(byte));
    if (allowed.empty()) return result;  // a dead end
    // Quotes and brackets often: they are what ends things.
    uint8_t byte = allowed[random() % allowed.size()];
    for (const char closing : std::string_view("\"}]"))
      if (random() % 3 == 0 && std::ranges::find(allowed, static_cast<uint8_t>(closing)) != allowed.end())
        byte = static_cast<uint8_t>(closing);
    result.text += static_cast<char>(byte);
    at = configurations.next(at, byte);
  }
  return result;
}

}  // namespace polylora::grammar
