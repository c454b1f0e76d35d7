// What keeps an output within a grammar. The engine knows tokens only: serve/ brings the grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace polylora {

/// One bit per token, token t in bit t % 64 of word t / 64. Tokens beyond its end are not in it.
using TokenMask = std::vector<uint64_t>;

/// The state of one request's output. What it says must depend on the tokens it was advanced by only. Used by
/// one thread at a time, which changes; nothing here throws.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  /// What may come next, the end of the output apart. Not null.
  virtual std::shared_ptr<const TokenMask> allowed() = 0;
  /// The output may end here: an end-of-sequence token is allowed too.
  virtual bool may_end() const = 0;
  /// Takes a token that is not an end-of-sequence token; false when it is not allowed.
  virtual bool advance(int32_t token) = 0;
};

}  // namespace polylora
