// Records of a data file, alpaca and sharegpt, every stage. The first byte picks which; the rest is the file.
#include <string_view>

#include "base/error.h"
#include "tune/data/records.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polylora;
  if (size == 0) return 0;
  DatasetInfo info;
  info.name = "fuzz";
  info.formatting = (data[0] & 1) != 0 ? DatasetFormatting::kSharegpt : DatasetFormatting::kAlpaca;
  info.ranking = (data[0] & 2) != 0;
  info.columns_given = (data[0] & 8) != 0;
  info.columns.history = "history";
  info.columns.system = "system";
  info.columns.tools = "tools";
  info.columns.kto_tag = "kto";
  info.columns.chosen = "chosen";
  info.columns.rejected = "rejected";
  const Stage stage = info.ranking ? Stage::kDpo : (data[0] & 4) != 0 ? Stage::kPt : Stage::kSft;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    parse_records(text, "fuzz.json", info, stage);
  } catch (const Error&) {
  }
  return 0;
}
