// The records of a dataset's files as conversations.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tune/config/train_config.h"
#include "tune/data/conversation.h"
#include "tune/data/dataset_info.h"

namespace polylora {

struct DatasetRecords {
  std::vector<Conversation> conversations;  // in the order of the files
  int64_t in_files = 0;                     // records that the files hold
  int64_t taken = 0;                        // after split, num_samples and max_samples
  std::map<std::string, int64_t> dropped;   // reason -> count; taken = usable + dropped
};

/// Reads JSON arrays, JSON Lines (told apart by their first character) and, for .txt, one record {"text": …}
/// a line. Takes the split, num_samples of it (drawn with `seed`) and then the first `max_samples` (0: all).
/// Drops, as LLaMA-Factory does, what has no answer, sharegpt records whose roles do not alternate or that
/// end with the wrong one. Throws kDataCorrupt "FILE: row N: column 'C' …" for records that are malformed,
/// kUnsupported for tool calls, images, videos, audios and kto tags.
DatasetRecords read_records(const DatasetInfo& info, Stage stage, int64_t max_samples, int64_t seed);

/// The parts of read_records that know no files, for their tests and the fuzz target: `text` is a file's
/// content, `where` its name in messages.
DatasetRecords parse_records(std::string_view text, const std::string& where, const DatasetInfo& info,
                             Stage stage);

}  // namespace polylora
