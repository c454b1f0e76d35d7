#include "model/batch.h"

#include "base/error.h"

namespace polylora {

std::vector<AdapterGroup> groups_among(std::span<const AdapterGroup> groups, std::span<const int32_t> rows) {
  std::vector<AdapterGroup> result;
  int next = 0;
  for (const AdapterGroup& group : groups) {
    const int begin = next;
    while (next < static_cast<int>(rows.size()) && rows[static_cast<size_t>(next)] < group.row_end) ++next;
    if (next > begin) result.push_back({begin, next, group.adapter});
  }
  check(next == static_cast<int>(rows.size()), "rows of the batch, ascending");
  return result;
}

}  // namespace polylora
