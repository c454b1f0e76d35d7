// dataset_info.json: which files a dataset name stands for, and how their records look.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polylora {

enum class DatasetFormatting : uint8_t { kAlpaca, kSharegpt };

/// Names of members in a record; empty: the dataset has no such column. As in LLaMA-Factory, a `columns` or
/// `tags` object replaces all the defaults, not only those that it names.
struct DatasetColumns {
  std::string prompt = "instruction", query = "input", response = "output", history;  // alpaca
  std::string messages = "conversations";                                             // sharegpt
  std::string system, tools, images, videos, audios;
  std::string chosen, rejected, kto_tag;
};

/// Members of a sharegpt message, and the values of its role member.
struct DatasetTags {
  std::string role_tag = "from", content_tag = "value";
  std::string user_tag = "human", assistant_tag = "gpt", observation_tag = "observation",
              function_tag = "function_call", system_tag = "system";
};

struct DatasetInfo {
  std::string name;
  std::vector<std::filesystem::path> files;  // read one after the other
  DatasetFormatting formatting = DatasetFormatting::kAlpaca;
  bool ranking = false;  // records hold a chosen and a rejected answer
  DatasetColumns columns;
  bool columns_given = false;  // by a `columns` object: each of them must occur
  DatasetTags tags;
  std::string split = "train";         // "train", or a slice of it: "train[10:20]", "train[:5%]"
  std::optional<int64_t> num_samples;  // so many records drawn at random, some twice if there are fewer
  std::vector<std::string> notices;    // members that nothing reads, one line each
};

/// The entries of `names` in `dataset_dir`/dataset_info.json, checked. Throws kInvalidArgument for an unknown
/// name (with the nearest ones) or a broken entry, kNotFound for missing files, kUnsupported for datasets on
/// a hub and file types other than .json, .jsonl and .txt; each says what to do.
std::vector<DatasetInfo> read_dataset_info(const std::filesystem::path& dataset_dir,
                                           const std::vector<std::string>& names);

}  // namespace polylora
