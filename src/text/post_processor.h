// Post-processors of tokenizer.json: which special tokens stand around a text when the caller asks for them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace polylora {

/// For one sequence every post-processor amounts to ids before and ids after it.
struct SpecialFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

/// An empty frame for a null component. Throws kUnsupported naming a type it does not know.
SpecialFrame make_special_frame(const nlohmann::json& component);

}  // namespace polylora
