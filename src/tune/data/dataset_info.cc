#include "tune/data/dataset_info.h"

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

bool is_data_file(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".json" || extension == ".jsonl" || extension == ".txt";
}

/// What to do for a user who named a file instead of a dataset.
std::string how_to_register(const fs::path& dataset_dir, const std::string& name) {
  return fmt::format(R"(; to train on that file, write {} with {{"my_data": {{"file_name": "{}"}}}} and say )"
                     "dataset: my_data",
                     (dataset_dir / "dataset_info.json").string(), fs::path(name).filename().string());
}

/// Reads the members of one entry and remembers which of them it knows.
class EntryReader {
 public:
  EntryReader(const Json& object, std::string where, std::vector<std::string>& notices)
      : object_(object), where_(std::move(where)), notices_(notices) {
    if (!object.is_object()) fail(ErrorCode::kInvalidArgument, "{}: not an object", where_);
  }

  const Json* find(const char* key) {
    known_.emplace_back(key);
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  std::string string(const char* key, std::string fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(ErrorCode::kInvalidArgument, "{}: '{}' must be a string", where_, key);
    return value->get<std::string>();
  }

  bool boolean(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean())
      fail(ErrorCode::kInvalidArgument, "{}: '{}' must be true or false", where_, key);
    return value->get<bool>();
  }

  std::optional<int64_t> count(const char* key) {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    constexpr int64_t kMost = 1'000'000'000;
    if (!value->is_number_integer() || value->get<int64_t>() < 1 || value->get<int64_t>() > kMost)
      fail(ErrorCode::kInvalidArgument, "{}: '{}' must be a whole number from 1", where_, key);
    return value->get<int64_t>();
  }

  void notice_unknown() {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) == known_.end())
        notices_.push_back(fmt::format("{}: nothing reads '{}'{}", where_, key, suggestion(key, known_)));
    }
  }

 private:
  const Json& object_;
  std::string where_;
  std::vector<std::string>& notices_;
  std::vector<std::string> known_;
};

void read_columns(const Json& object, const std::string& where, DatasetInfo& info) {
  EntryReader reader(object, where + ": columns", info.notices);
  DatasetColumns& c = info.columns;
  c.prompt = reader.string("prompt", "");
  c.query = reader.string("query", "");
  c.response = reader.string("response", "");
  c.history = reader.string("history", "");
  c.messages = reader.string("messages", "");
  c.system = reader.string("system", "");
  c.tools = reader.string("tools", "");
  c.images = reader.string("images", "");
  c.videos = reader.string("videos", "");
  c.audios = reader.string("audios", "");
  c.chosen = reader.string("chosen", "");
  c.rejected = reader.string("rejected", "");
  c.kto_tag = reader.string("kto_tag", "");
  info.columns_given = true;
  reader.notice_unknown();
}

void read_tags(const Json& object, const std::string& where, DatasetInfo& info) {
  EntryReader reader(object, where + ": tags", info.notices);
  DatasetTags& t = info.tags;
  t.role_tag = reader.string("role_tag", "");
  t.content_tag = reader.string("content_tag", "");
  t.user_tag = reader.string("user_tag", "");
  t.assistant_tag = reader.string("assistant_tag", "");
  t.observation_tag = reader.string("observation_tag", "");
  t.function_tag = reader.string("function_tag", "");
  t.system_tag = reader.string("system_tag", "");
  reader.notice_unknown();
  if (t.role_tag.empty() || t.content_tag.empty() || t.user_tag.empty() || t.assistant_tag.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: tags must give role_tag, content_tag, user_tag and assistant_tag (or be left out altogether)",
         where);
  }
}

DatasetFormatting read_formatting(EntryReader& reader, const std::string& where) {
  const std::string formatting = reader.string("formatting", "alpaca");
  if (formatting == "alpaca") return DatasetFormatting::kAlpaca;
  if (formatting == "sharegpt") return DatasetFormatting::kSharegpt;
  if (formatting == "openai") {
    fail(ErrorCode::kUnsupported,
         "{}: formatting 'openai' is not implemented; use 'sharegpt' with tags role_tag: role, content_tag: "
         "content, user_tag: user, assistant_tag: assistant",
         where);
  }
  fail(ErrorCode::kInvalidArgument, "{}: formatting '{}' is not known; use alpaca or sharegpt", where,
       formatting);
}

/// The columns that the formatting cannot do without.
void check_columns(const DatasetInfo& info, const std::string& where) {
  const DatasetColumns& c = info.columns;
  if (info.formatting == DatasetFormatting::kSharegpt && c.messages.empty())
    fail(ErrorCode::kInvalidArgument, "{}: formatting sharegpt needs columns.messages", where);
  if (info.ranking && (c.chosen.empty() || c.rejected.empty()))
    fail(ErrorCode::kInvalidArgument, "{}: ranking needs columns.chosen and columns.rejected", where);
}

std::vector<fs::path> files_of(const fs::path& dataset_dir, const std::string& file_name,
                               const std::string& where) {
  const fs::path path = dataset_dir / file_name;
  std::error_code error;
  std::vector<fs::path> files;
  if (fs::is_directory(path, error)) {
    for (auto it = fs::directory_iterator(path, error); !error && it != fs::directory_iterator();
         it.increment(error))
      files.push_back(it->path());
    std::sort(files.begin(), files.end());
    if (files.empty()) fail(ErrorCode::kNotFound, "{}: the folder {} is empty", where, path.string());
  } else if (path_exists(path)) {
    files.push_back(path);
  } else {
    fail(ErrorCode::kNotFound, "{}: its file {} does not exist", where, path.string());
  }
  for (const fs::path& file : files) {
    if (!is_data_file(file)) {
      fail(ErrorCode::kUnsupported, "{}: {} is neither .json, .jsonl nor .txt; convert it to .jsonl", where,
           file.string());
    }
  }
  return files;
}

void read_files(EntryReader& reader, const fs::path& dataset_dir, const std::string& where,
                DatasetInfo& info) {
  const std::string file_name = reader.string("file_name", "");
  for (const char* key : {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}) {
    if (const Json* value = reader.find(key); value != nullptr && file_name.empty()) {
      fail(ErrorCode::kUnsupported, "{}: '{}' is {}; download it and give file_name instead of {}", where,
           value->is_string() ? value->get<std::string>() : "the dataset",
           std::string_view(key) == "script_url" ? "a Python script" : "on a hub", key);
    }
  }
  if (file_name.empty()) fail(ErrorCode::kInvalidArgument, "{}: file_name is missing", where);
  if (reader.find("folder") != nullptr) {
    fail(ErrorCode::kUnsupported, "{}: folder is for datasets on a hub; make it part of file_name", where);
  }
  reader.find("subset");    // picks a configuration of a hub dataset; a file has only one
  reader.find("revision");  // of a hub repository
  info.files = files_of(dataset_dir, file_name, where);
}

DatasetInfo read_entry(const fs::path& dataset_dir, const std::string& name, const Json& entry) {
  const std::string where = fmt::format("dataset '{}' in dataset_info.json", name);
  DatasetInfo info;
  info.name = name;
  EntryReader reader(entry, where, info.notices);
  info.formatting = read_formatting(reader, where);
  info.ranking = reader.boolean("ranking");
  info.split = reader.string("split", "train");
  info.num_samples = reader.count("num_samples");
  if (const Json* columns = reader.find("columns")) read_columns(*columns, where, info);
  if (const Json* tags = reader.find("tags")) read_tags(*tags, where, info);
  read_files(reader, dataset_dir, where, info);
  reader.notice_unknown();
  check_columns(info, where);
  return info;
}

}  // namespace

std::vector<DatasetInfo> read_dataset_info(const std::filesystem::path& dataset_dir,
                                           const std::vector<std::string>& names) {
  const fs::path path = dataset_dir / "dataset_info.json";
  const auto names_a_file = [](const std::string& name) { return is_data_file(name); };
  if (!path_exists(path)) {
    const auto file = std::find_if(names.begin(), names.end(), names_a_file);
    fail(ErrorCode::kNotFound, "{} does not exist{}", path.string(),
         file != names.end() ? how_to_register(dataset_dir, *file)
                             : "; set dataset_dir to the folder that holds it");
  }
  const Json all = read_json_file(path);
  if (!all.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", path.string());
  std::vector<DatasetInfo> result;
  for (const std::string& name : names) {
    const auto entry = all.find(name);
    if (entry == all.end()) {
      std::vector<std::string> known;
      for (const auto& [key, value] : all.items()) known.push_back(key);
      fail(ErrorCode::kInvalidArgument, "dataset '{}' is not in {}{}", name, path.string(),
           names_a_file(name) ? how_to_register(dataset_dir, name) : suggestion(name, known));
    }
    result.push_back(read_entry(dataset_dir, name, *entry));
  }
  return result;
}

}  // namespace polylora
