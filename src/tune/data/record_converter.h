// One JSON record as a Conversation.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tune/config/train_config.h"
#include "tune/data/conversation.h"
#include "tune/data/dataset_info.h"

namespace polylora {

struct RawRecord {
  std::string file;
  int64_t row = 0;  // from 1: position in an array, or line
  nlohmann::json value;
};

class RecordConverter {
 public:
  /// `info` must outlive it. Throws kInvalidArgument when the dataset does not fit the stage.
  RecordConverter(const DatasetInfo& info, Stage stage);

  /// Fills `conversation` and returns an empty string, or the reason why the record is dropped. Throws for
  /// malformed records (see records.h).
  std::string convert(const RawRecord& record, Conversation& conversation) const;

 private:
  std::string convert_alpaca(const RawRecord& record, Conversation& conversation) const;
  std::string convert_sharegpt(const RawRecord& record, Conversation& conversation) const;
  std::string split_messages(const nlohmann::json& messages, const RawRecord& record,
                             Conversation& conversation) const;
  std::string take_ranked_answers(const RawRecord& record, Conversation& conversation) const;
  void refuse_unsupported(const RawRecord& record) const;

  const DatasetInfo& info_;
  Stage stage_;
};

/// Throws kInvalidArgument for a column that dataset_info.json names and no record has: a typing error there.
void check_columns_occur(const std::vector<RawRecord>& records, const DatasetInfo& info);

}  // namespace polylora
